//! The type of a result, from its op and the types of its operands.

use braid_dsl::model::{Attend, Axis, AxisId, Binary, Elem, Gives, Op, Recur, Rows, Size, Type, Unary};

/// What leaves refer to, and the table of axes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Env<'a> {
    /// All axes.
    pub axes: &'a [Axis],
    /// The model's inputs, or nothing in a body.
    pub inputs: &'a [Type],
    /// Axes of the parameters.
    pub params: &'a [Vec<AxisId>],
    /// Types of the captures, as the body sees them.
    pub captures: &'a [Type],
    /// Types of the states of a recurrence.
    pub states: &'a [Type],
    /// Type of the score of an attention.
    pub score: Option<&'a Type>,
}

/// Length of an axis; `None` for a sequence.
pub fn size(axes: &[Axis], id: AxisId) -> Option<usize> {
    match axes.get(id.0 as usize)?.size {
        Size::Fixed(n) => Some(n),
        Size::Seq => None,
    }
}

/// Whether an axis is a sequence.
pub fn is_seq(axes: &[Axis], id: AxisId) -> bool {
    axes.get(id.0 as usize).is_some_and(|axis| axis.size == Size::Seq)
}

/// All axes of `a`, then those of `b` that `a` lacks.
pub fn union(a: &[AxisId], b: &[AxisId]) -> Vec<AxisId> {
    let mut all = a.to_vec();
    all.extend(b.iter().filter(|axis| !a.contains(axis)));
    all
}

/// The axes of `a` that `b` lacks.
pub fn without(a: &[AxisId], b: &[AxisId]) -> Vec<AxisId> {
    a.iter().copied().filter(|axis| !b.contains(axis)).collect()
}

/// Whether two types agree; the order of axes carries no meaning.
pub fn same(a: &Type, b: &Type) -> bool {
    a.elem == b.elem && same_axes(&a.axes, &b.axes)
}

/// Whether two lists hold the same axes.
pub fn same_axes(a: &[AxisId], b: &[AxisId]) -> bool {
    a.len() == b.len() && a.iter().all(|axis| b.contains(axis))
}

/// The type of `op` over operands of these types; the error says which rule is broken. Constants are taken to be `Float`.
pub fn infer(env: &Env, op: &Op, args: &[&Type]) -> Result<Type, String> {
    if let Some(count) = arity(op)
        && count != args.len()
    {
        return Err(format!("takes {count} operands, has {}", args.len()));
    }
    match op {
        Op::Unary(f) => unary(*f, args[0]),
        Op::Binary(f) => binary(*f, args[0], args[1]),
        Op::Select => select(args[0], args[1], args[2]),
        Op::ToFloat => Ok(Type { elem: Elem::Float, axes: args[0].axes.clone() }),
        Op::Reduce(_, over) => dropped(args[0], over),
        Op::Contract(over) => contract(args[0], args[1], over),
        Op::Rename(..) | Op::Slice { .. } | Op::Pick { .. } | Op::Split(..) | Op::Merge(..) => view(env, op, args[0]),
        Op::Concat(from, to) => concat(env, args, from, *to),
        Op::Fetch(axis, _) => fetch(args[0], args[1], *axis),
        Op::Gather(axis) => gather(args[0], args[1], *axis),
        Op::Top { axis, into } => top(args[0], *axis, *into),
        Op::Chosen { slot, .. } => chosen(args[0], args[1], *slot),
        Op::Solve { rows, columns } => solve(env, args[0], args[1], *rows, *columns),
        Op::Shift(_) | Op::Largest { .. } | Op::Wanted => along(env, args[0]),
        Op::Conv(width) => convolve(env, args[0], args[1], *width),
        Op::Products { row, over } => products(args[0], *row, *over),
        Op::Scores { row, column, over, .. } => scores(args, *row, *column, over),
        Op::Substitute { row, column, rank } => substitute(args[0], args[1], *row, *column, *rank),
        Op::Recur(recur) => recurrence(env, recur, args),
        Op::Attend(attend) => attention(env, attend, args),
        Op::Result(_) => Err("the type of a result is that of the body's output".into()),
        _ => leaf(env, op),
    }
}

/// How many operands an op takes; `None`: as many as its body or its list of axes says.
fn arity(op: &Op) -> Option<usize> {
    match op {
        Op::Binary(_)
        | Op::Contract(_)
        | Op::Gather(_)
        | Op::Fetch(..)
        | Op::Solve { .. }
        | Op::Conv(_)
        | Op::Substitute { .. }
        | Op::Chosen { .. } => Some(2),
        Op::Select | Op::Scores { .. } => Some(3),
        Op::Concat(from, _) => Some(from.len()),
        Op::Recur(_) | Op::Attend(_) => None,
        Op::Input(_) | Op::Param(_) | Op::Const(_) | Op::Index(_) | Op::Position(_) | Op::Length(..) => Some(0),
        Op::Capture(_) | Op::State(_) | Op::Score | Op::QueryPosition | Op::KeyPosition => Some(0),
        _ => Some(1),
    }
}

fn leaf(env: &Env, op: &Op) -> Result<Type, String> {
    let int = |axes: Vec<AxisId>| Ok(Type { elem: Elem::Int, axes });
    let known = |found: Option<&Type>, what: &str| found.cloned().ok_or_else(|| format!("no such {what} here"));
    match op {
        Op::Input(n) => known(env.inputs.get(*n), "input"),
        Op::Param(id) => match env.params.get(id.0 as usize) {
            Some(axes) => Ok(Type { elem: Elem::Float, axes: axes.clone() }),
            None => Err("no such parameter".into()),
        },
        Op::Const(_) => Ok(Type { elem: Elem::Float, axes: vec![] }),
        Op::Index(axis) if size(env.axes, *axis).is_some() => int(vec![*axis]),
        Op::Position(axis) | Op::Length(axis, _) if is_seq(env.axes, *axis) => int(vec![*axis]),
        Op::Capture(n) => known(env.captures.get(*n), "capture"),
        Op::State(n) => known(env.states.get(*n), "state"),
        Op::Score => known(env.score, "score"),
        Op::QueryPosition | Op::KeyPosition => int(vec![]),
        _ => Err("its axis does not fit".into()),
    }
}

fn unary(f: Unary, x: &Type) -> Result<Type, String> {
    let fits = match f {
        Unary::Not => x.elem == Elem::Bool,
        Unary::Neg | Unary::Abs | Unary::Floor | Unary::Round => x.elem != Elem::Bool,
        _ => x.elem == Elem::Float,
    };
    if fits { Ok(x.clone()) } else { Err(format!("{f:?} does not take {:?}", x.elem)) }
}

fn binary(f: Binary, a: &Type, b: &Type) -> Result<Type, String> {
    use Binary::*;
    if a.elem != b.elem {
        return Err(format!("{f:?} of {:?} and {:?}", a.elem, b.elem));
    }
    let logic = a.elem == Elem::Bool;
    let elem = match f {
        And | Or if logic => Elem::Bool,
        Lt | Le | Gt | Ge | Eq | Ne => Elem::Bool,
        Div | Pow if a.elem == Elem::Float => Elem::Float,
        Add | Sub | Mul | Min | Max | Rem if !logic => a.elem,
        _ => return Err(format!("{f:?} does not take {:?}", a.elem)),
    };
    Ok(Type { elem, axes: union(&a.axes, &b.axes) })
}

fn select(condition: &Type, a: &Type, b: &Type) -> Result<Type, String> {
    if condition.elem != Elem::Bool || a.elem != b.elem {
        return Err("select takes a Bool and two values of one element type".into());
    }
    Ok(Type { elem: a.elem, axes: union(&union(&condition.axes, &a.axes), &b.axes) })
}

fn dropped(x: &Type, over: &[AxisId]) -> Result<Type, String> {
    match over.iter().find(|axis| !x.axes.contains(axis)) {
        Some(_) => Err("reduces an axis that the operand lacks".into()),
        None => Ok(Type { elem: x.elem, axes: without(&x.axes, over) }),
    }
}

fn contract(a: &Type, b: &Type, over: &[AxisId]) -> Result<Type, String> {
    if a.elem != Elem::Float || b.elem != Elem::Float {
        return Err("contracts Float only".into());
    }
    if over.iter().any(|axis| !a.axes.contains(axis) || !b.axes.contains(axis)) {
        return Err("contracts an axis that an operand lacks".into());
    }
    Ok(Type { elem: Elem::Float, axes: without(&union(&a.axes, &b.axes), over) })
}

/// The operand's axes with `from` taken out and `to` in its place.
fn exchanged(x: &Type, from: &[AxisId], to: &[AxisId]) -> Result<Type, String> {
    let Some(place) = x.axes.iter().position(|axis| from.first() == Some(axis)) else {
        return Err("views an axis that the operand lacks".into());
    };
    if from.iter().any(|axis| !x.axes.contains(axis)) {
        return Err("views an axis that the operand lacks".into());
    }
    let before = without(&x.axes[..place], from);
    let after = without(&x.axes[place..], from);
    if to.iter().any(|axis| before.contains(axis) || after.contains(axis)) {
        return Err("makes an axis that the operand has already".into());
    }
    Ok(Type { elem: x.elem, axes: [before, to.to_vec(), after].concat() })
}

fn view(env: &Env, op: &Op, x: &Type) -> Result<Type, String> {
    let fixed = |axis: &AxisId| size(env.axes, *axis).ok_or_else(|| "views a sequence axis".to_string());
    let product = |list: &[AxisId]| list.iter().map(fixed).product::<Result<usize, String>>();
    match op {
        Op::Rename(from, to) if fixed(from)? == fixed(to)? => exchanged(x, &[*from], &[*to]),
        Op::Slice { axis, start, to } if start + fixed(to)? <= fixed(axis)? => exchanged(x, &[*axis], &[*to]),
        Op::Pick { axis, index } if *index < fixed(axis)? => exchanged(x, &[*axis], &[]),
        Op::Split(from, to) if fixed(from)? == product(to)? => exchanged(x, &[*from], to),
        Op::Merge(from, to) if product(from)? == fixed(to)? => exchanged(x, from, &[*to]),
        _ => Err("sizes do not agree".into()),
    }
}

fn concat(env: &Env, args: &[&Type], from: &[AxisId], to: AxisId) -> Result<Type, String> {
    let sizes: Option<usize> = from.iter().map(|&axis| size(env.axes, axis)).sum();
    if sizes.is_none() || sizes != size(env.axes, to) {
        return Err("sizes do not add up".into());
    }
    let mut rest: Vec<AxisId> = vec![];
    for (x, axis) in args.iter().zip(from) {
        if !x.axes.contains(axis) || x.elem != args[0].elem {
            return Err("an operand lacks its axis or has another element type".into());
        }
        rest = union(&rest, &without(&x.axes, &[*axis]));
    }
    rest.push(to);
    Ok(Type { elem: args[0].elem, axes: rest })
}

fn gather(table: &Type, ids: &Type, axis: AxisId) -> Result<Type, String> {
    if !table.axes.contains(&axis) || ids.elem != Elem::Int {
        return Err("gathers along an axis that the table lacks, or by ids that are not Int".into());
    }
    Ok(Type { elem: table.elem, axes: union(&ids.axes, &without(&table.axes, &[axis])) })
}

fn fetch(x: &Type, at: &Type, axis: AxisId) -> Result<Type, String> {
    match x.axes.contains(&axis) && at.elem == Elem::Int && at.axes == [axis] {
        true => Ok(x.clone()),
        false => Err("fetches rows of what has none, or by what is no Int for each row".into()),
    }
}

fn top(x: &Type, axis: AxisId, into: AxisId) -> Result<Type, String> {
    let mut found = exchanged(x, &[axis], &[into])?;
    found.elem = Elem::Int;
    Ok(found)
}

fn chosen(ids: &Type, position: &Type, slot: AxisId) -> Result<Type, String> {
    if !ids.axes.contains(&slot) || [ids, position].iter().any(|ty| ty.elem != Elem::Int) {
        return Err("looks for a position among ids that are none".into());
    }
    Ok(Type { elem: Elem::Bool, axes: union(&without(&ids.axes, &[slot]), &position.axes) })
}

fn solve(env: &Env, a: &Type, b: &Type, rows: AxisId, columns: AxisId) -> Result<Type, String> {
    let square = rows != columns && size(env.axes, rows).is_some() && size(env.axes, rows) == size(env.axes, columns);
    let has = |ty: &Type, axis| ty.elem == Elem::Float && ty.axes.contains(&axis);
    if !square || !has(a, rows) || !has(a, columns) || !has(b, rows) || b.axes.contains(&columns) {
        return Err("solves a system whose axes do not fit".into());
    }
    let rest = union(&without(&a.axes, &[rows, columns]), &without(&b.axes, &[rows]));
    Ok(Type { elem: Elem::Float, axes: union(&rest, &[columns]) })
}

/// The operand's own type, which must have a sequence axis.
fn along(env: &Env, x: &Type) -> Result<Type, String> {
    match x.axes.iter().any(|&axis| is_seq(env.axes, axis)) {
        true => Ok(x.clone()),
        false => Err("the operand has no sequence axis".into()),
    }
}

fn convolve(env: &Env, x: &Type, w: &Type, width: AxisId) -> Result<Type, String> {
    if !w.axes.contains(&width) || x.axes.contains(&width) || w.axes.iter().any(|&axis| is_seq(env.axes, axis)) {
        return Err("the filter's axes do not fit".into());
    }
    let x = along(env, x)?;
    Ok(Type { elem: Elem::Float, axes: without(&union(&x.axes, &w.axes), &[width]) })
}

/// The operand's axes, and the column where the span has two ends.
fn products(x: &Type, row: AxisId, over: Rows) -> Result<Type, String> {
    if x.elem != Elem::Float || !x.axes.contains(&row) {
        return Err("multiplies rows that the operand lacks".into());
    }
    match over {
        Rows::Upto | Rows::Before | Rows::After => Ok(x.clone()),
        Rows::Between(column) | Rows::Inside(column) if !x.axes.contains(&column) => {
            Ok(Type { elem: Elem::Float, axes: union(&[row, column], &x.axes) })
        }
        _ => Err("has the column already".into()),
    }
}

/// The axes of all three, with a column and without what is summed.
fn scores(args: &[&Type], row: AxisId, column: AxisId, over: &[AxisId]) -> Result<Type, String> {
    if args.iter().any(|x| x.elem != Elem::Float || !x.axes.contains(&row) || x.axes.contains(&column)) {
        return Err("an operand lacks the rows or has the column already".into());
    }
    let all = union(&union(&args[0].axes, &args[1].axes), &args[2].axes);
    match over.iter().all(|axis| all.contains(axis)) {
        true => Ok(Type { elem: Elem::Float, axes: without(&union(&[row, column], &all), over) }),
        false => Err("sums over an axis that no operand has".into()),
    }
}

fn substitute(m: &Type, b: &Type, row: AxisId, column: AxisId, rank: Option<(AxisId, AxisId)>) -> Result<Type, String> {
    let (own, summed): (Vec<AxisId>, Vec<AxisId>) = rank.map_or((vec![], vec![]), |(a, b)| (vec![a], vec![b]));
    let (rows, columns) = ([vec![row], own].concat(), [vec![column], summed].concat());
    let has = |x: &Type, axes: &[AxisId]| axes.iter().all(|axis| x.axes.contains(axis));
    match has(m, &rows) && has(m, &columns) && has(b, &rows) {
        true => Ok(Type { elem: Elem::Float, axes: without(&union(&b.axes, &m.axes), &columns) }),
        false => Err("its operands lack an axis of the system".into()),
    }
}

/// A recurrence is read by results only; as a value it has no axes.
fn recurrence(env: &Env, recur: &Recur, args: &[&Type]) -> Result<Type, String> {
    let foreign = |ty: &&&Type| ty.axes.iter().any(|&axis| axis != recur.seq && is_seq(env.axes, axis));
    match args.iter().find(foreign) {
        Some(_) => Err("a capture runs along another sequence".into()),
        None => Ok(Type { elem: Elem::Float, axes: vec![] }),
    }
}

/// The type of the score that an attention's dot product makes.
pub fn score_type(attend: &Attend, q: &Type, k: &Type) -> Type {
    let gone = [attend.contract.clone(), vec![attend.seq, attend.keys]].concat();
    Type { elem: Elem::Float, axes: without(&union(&q.axes, &k.axes), &gone) }
}

fn attention(env: &Env, attend: &Attend, args: &[&Type]) -> Result<Type, String> {
    let ([q, k, ..], true) = (args, args.len() >= attend.operands()) else {
        return Err("takes q and k, and v if it weighs values".into());
    };
    let (operands, captures) = args.split_at(attend.operands());
    let all = |ty: &Type, axes: &[AxisId]| axes.iter().all(|axis| ty.axes.contains(axis));
    if !all(q, &attend.contract)
        || !all(k, &attend.contract)
        || !all(q, &[attend.seq])
        || !operands[1..].iter().all(|ty| all(ty, &[attend.keys]))
    {
        return Err("q, k or v lacks the sequence axis or a contracted axis".into());
    }
    let foreign = |ty: &&&Type| ty.axes.iter().any(|&axis| ![attend.seq, attend.keys].contains(&axis) && is_seq(env.axes, axis));
    if captures.iter().find(foreign).is_some() || attend.keyed.iter().chain(&attend.apart).any(|n| *n >= captures.len()) {
        return Err("a capture runs along another sequence, or is not there".into());
    }
    let scored = score_type(attend, q, k).axes;
    let mut axes = union(&[attend.seq], if matches!(attend.gives, Gives::Best(_)) { &[] } else { &scored });
    for (body, result) in [(&attend.score, attend.score_result), (&attend.keep, attend.keep_result)] {
        let result = body.values.get(result.0 as usize).ok_or("a body lacks its result")?;
        axes = union(&axes, &result.ty.axes);
    }
    let sink = attend.sink.and_then(|n| captures.get(n));
    axes = union(&axes, sink.map_or(&[], |ty| &ty.axes));
    Ok(match attend.gives {
        Gives::Values => Type { elem: Elem::Float, axes: union(&axes, &without(&args[2].axes, &[attend.keys])) },
        Gives::Total | Gives::Tally { .. } => Type { elem: Elem::Float, axes },
        Gives::Best(slot) => Type { elem: Elem::Int, axes: union(&axes, &[slot]) },
    })
}
