//! From the checked model to the graph: equal values merged, sums of products as contractions, dead values gone.

use super::{Graph, Node, NodeId, body, shape};
use braid_dsl::model::{Binary, Model, Op, Reduce, Value};
use petgraph::stable_graph::StableDiGraph;
use std::collections::HashMap;

impl Graph {
    /// The graph of a model.
    pub fn build(model: &Model) -> Graph {
        let mut graph = Graph {
            name: model.name.clone(),
            axes: model.axes.clone(),
            params: model.params.clone(),
            scopes: model.scopes.clone(),
            inputs: model.inputs.clone(),
            outputs: model.delivered().to_vec(),
            generate: model.generate.clone(),
            ahead: model.ahead,
            constants: model.constants.clone(),
            names: HashMap::new(),
            net: StableDiGraph::new(),
            output: NodeId(0),
        };
        let mut names: Vec<NodeId> = Vec::with_capacity(model.values.len());
        let mut known: HashMap<String, NodeId> = HashMap::new();
        for value in &model.values {
            let args: Vec<NodeId> = value.args.iter().map(|a| names[a.0 as usize]).collect();
            names.push(graph.adopt(value, args, &mut known));
        }
        graph.names = model.names.iter().map(|(id, name)| (names[id.0 as usize], name.clone())).collect();
        graph.output = names[model.output.0 as usize];
        graph = graph.compact();
        graph.forget_unread();
        graph.compact()
    }

    /// Takes from recurrences what nothing reads: results without users, what only they need in a step, and operands that a step
    /// then no longer uses. Every name that a step assigns is a result at first, also those that only help inside it.
    fn forget_unread(&mut self) {
        for id in self.order() {
            let Op::Recur(recur) = self.op(id) else { continue };
            let results = self.users(id);
            let is_read = |n: &usize| results.iter().any(|result| *self.op(*result) == Op::Result(*n));
            let read: Vec<usize> = (0..recur.outputs.len()).filter(is_read).collect();
            if read.len() == recur.outputs.len() {
                continue;
            }
            let mut recur = recur.clone();
            recur.outputs = read.iter().map(|n| recur.outputs[*n]).collect();
            let mut kept: Vec<&mut _> = recur.next.iter_mut().chain(recur.outputs.iter_mut()).collect();
            recur.body = body::cleaned(&recur.body, &self.axes, &mut kept);
            let captures = body::captures(&mut recur.body);
            let args = self.args(id);
            self.set_args(id, &captures.iter().map(|n| args[*n]).collect::<Vec<_>>());
            self.node_mut(id).op = Op::Recur(recur);
            for result in results {
                let Op::Result(n) = self.op(result) else { continue };
                let place = read.iter().position(|old| old == n).unwrap_or_default();
                self.node_mut(result).op = Op::Result(place);
            }
        }
    }

    /// Adds a value unless an equal one is there.
    fn adopt(&mut self, value: &Value, args: Vec<NodeId>, known: &mut HashMap<String, NodeId>) -> NodeId {
        let (op, args) = self.contracted(&value.op, args);
        let op = self.cleaned(op);
        let key = format!("{op:?} {args:?} {:?}", value.ty.elem);
        // Bodies print with their places in the text, so recurrences and attentions of different calls never merge.
        if let Some(same) = known.get(&key) {
            return *same;
        }
        let node = Node { op, ty: value.ty.clone(), span: value.span, scope: value.scope };
        let id = self.add(node, &args);
        known.insert(key, id);
        id
    }

    /// `sum[k] a * b` over axes that both operands carry is one contraction.
    fn contracted(&self, op: &Op, args: Vec<NodeId>) -> (Op, Vec<NodeId>) {
        let Op::Reduce(Reduce::Sum, over) = op else { return (op.clone(), args) };
        let product = args[0];
        if *self.op(product) != Op::Binary(Binary::Mul) {
            return (op.clone(), args);
        }
        let factors = self.args(product);
        let both = |axis| factors.iter().all(|f| self.ty(*f).axes.contains(axis));
        match over.iter().all(|axis| both(axis) && !shape::is_seq(&self.axes, *axis)) {
            true => (Op::Contract(over.clone()), factors),
            false => (op.clone(), args),
        }
    }

    fn cleaned(&self, op: Op) -> Op {
        match op {
            Op::Recur(mut recur) => {
                let mut results: Vec<&mut _> = recur.next.iter_mut().chain(recur.outputs.iter_mut()).collect();
                recur.body = body::cleaned(&recur.body, &self.axes, &mut results);
                Op::Recur(recur)
            }
            Op::Attend(mut attend) => {
                attend.keep = body::cleaned(&attend.keep, &self.axes, &mut [&mut attend.keep_result]);
                attend.score = body::cleaned(&attend.score, &self.axes, &mut [&mut attend.score_result]);
                Op::Attend(attend)
            }
            other => other,
        }
    }
}
