//! Text to instructions.

use super::ops::{self, Pure};
use super::text::{operands, together};
use std::collections::HashMap;
use std::sync::Arc;

/// What an instruction reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    /// A register of the function.
    Register(usize),
    /// These bits.
    Bits(u64),
    /// The thread's number in its block, the block's, and how many blocks there are.
    Thread,
    /// See above.
    Block,
    /// See above.
    Blocks,
    /// The lane of the warp.
    Lane,
}

/// An address: what it is relative to, and bytes behind that.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// A register or the address of a variable.
    pub base: Source,
    /// Bytes.
    pub offset: i64,
}

/// Which memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Space {
    /// The device's.
    Global,
    /// The block's.
    Shared,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub enum Do {
    /// Computes a register of each lane alone.
    Pure(Pure, usize, Vec<Source>),
    /// Several registers from the parts of one number, or one from several: bits of a part.
    Split(Vec<usize>, Source, u32),
    /// See above.
    Join(usize, Vec<Source>, u32),
    /// Loads numbers of so many bytes that lie side by side; whether they are signed.
    Load(Space, Vec<usize>, Place, usize, bool),
    /// Stores some.
    Store(Space, Place, Vec<Source>, usize),
    /// Reads a parameter of the function.
    Parameter(usize, usize),
    /// Sets an argument of the next call.
    Argument(usize, Source),
    /// Calls a function.
    Call(String),
    /// Goes to a label, and where that is.
    Label(String),
    /// See above.
    Jump(usize),
    /// Ends the function.
    Return,
    /// Meets the block's other threads.
    Meet,
    /// Meets the warp's other lanes.
    Gather,
    /// What all lanes of a warp do together, or what has to do with copies and barriers: the opcode, and its operands as text.
    Together(Together, Vec<usize>, Vec<Source>),
    /// Orders memory, or asks for a cache line.
    Nothing,
    /// Not known.
    Unknown(String),
}

/// See [`Do::Together`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Together {
    ShuffleXor,
    ShuffleIndex,
    Any,
    LoadMatrices { turned: bool },
    MultiplyBf16,
    MultiplyTf32,
    MultiplyBytes,
    Add(Space),
    Copy,
    CloseCopies,
    WaitCopies,
    BulkCopy,
    BulkPrefetch,
    BarrierInit,
    BarrierExpect,
    BarrierWait,
}

/// An instruction, and the predicate under which it is executed: its register, and whether that must be false.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// See the type.
    pub guard: Option<(usize, bool)>,
    /// What it does.
    pub does: Do,
    /// Where it stands in the text.
    pub line: usize,
}

impl Instruction {
    /// Whether all lanes of a warp have to be here at a time.
    pub fn is_of_all(&self) -> bool {
        use Together::{Any, LoadMatrices, MultiplyBf16, MultiplyBytes, MultiplyTf32, ShuffleIndex, ShuffleXor};
        matches!(
            self.does,
            Do::Call(_)
                | Do::Gather
                | Do::Together(
                    ShuffleXor | ShuffleIndex | Any | LoadMatrices { .. } | MultiplyBf16 | MultiplyTf32 | MultiplyBytes,
                    ..
                )
        )
    }
}

/// A function.
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it does, in order.
    pub code: Vec<Instruction>,
    /// Where labels point to.
    pub labels: HashMap<String, usize>,
    /// How many registers it has.
    pub registers: usize,
    /// How many parameters.
    pub parameters: usize,
}

/// A variable of the module.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Which memory it lies in.
    pub space: Space,
    /// Where, in shared memory; the number of the variable elsewhere.
    pub place: u64,
    /// What it holds at first, or how many zeros.
    pub bytes: Vec<u8>,
}

/// A whole text.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// Its functions and entries.
    pub functions: HashMap<String, Arc<Function>>,
    /// Variables of the device's memory.
    pub globals: Vec<Vec<u8>>,
    /// Bytes of shared memory that have names.
    pub shared: usize,
    names: HashMap<String, Variable>,
}

/// Addresses of variables in the device's memory, before they have one: the machine places them.
pub const UNPLACED: u64 = 1 << 60;

struct Names<'a> {
    registers: HashMap<String, usize>,
    parameters: Vec<String>,
    module: &'a Module,
}

impl Module {
    /// Reads a text.
    pub fn parse(text: &str) -> Result<Module, String> {
        let mut module = Module::default();
        let lines: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or("").trim()).collect();
        lines.iter().for_each(|line| module.variable(line));
        module.shared = module.shared.next_multiple_of(128);
        let end = module.shared as u64;
        // Dynamic memory lies behind all else.
        for variable in module.names.values_mut().filter(|v| v.space == Space::Shared && v.bytes.is_empty()) {
            variable.place = end;
        }
        let mut at = 0;
        while at < lines.len() {
            let line = lines[at];
            // Launches of their own have instructions that are not played; calls of as few rows as these tests make have none of them.
            let apart = line.contains(".entry") && line.contains("_apart(");
            if !apart && (line.starts_with(".func") || line.contains(".entry")) {
                at = module.function(&lines, at)?;
            } else {
                at += 1;
            }
        }
        Ok(module)
    }

    fn variable(&mut self, line: &str) {
        let space = match () {
            () if line.contains(".shared ") && !line.contains("cp.async") => Space::Shared,
            () if line.starts_with(".global") || line.starts_with(".visible .global") => Space::Global,
            () => return,
        };
        if !line.starts_with('.') || line.contains(".param") {
            return;
        }
        let declared = line.trim_end_matches(';');
        let (left, right) = declared.split_once('=').unwrap_or((declared, ""));
        let words: Vec<&str> = left.split_whitespace().collect();
        let Some(last) = words.last() else { return };
        let align = words.iter().position(|w| *w == ".align").and_then(|at| words.get(at + 1)?.parse().ok()).unwrap_or(1usize);
        let kind = words[words.len() - 2];
        let each = kind.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().unwrap_or(8) / 8;
        let (name, count) = match last.split_once('[') {
            Some((name, count)) => (name, count.trim_end_matches(']').parse::<usize>().unwrap_or(0)),
            None => (*last, 1),
        };
        let listed = right.trim().trim_matches(['{', '}']).split(',').filter_map(|n| n.trim().parse::<i64>().ok());
        let mut bytes: Vec<u8> = listed.flat_map(|n| n.to_le_bytes()[..each].to_vec()).collect();
        bytes.resize(count * each, 0);
        let place = match space {
            Space::Shared => {
                self.shared = self.shared.next_multiple_of(align);
                self.shared += bytes.len();
                (self.shared - bytes.len()) as u64
            }
            Space::Global => {
                self.globals.push(bytes.clone());
                UNPLACED + self.globals.len() as u64 - 1
            }
        };
        self.names.insert(name.to_owned(), Variable { space, place, bytes });
    }

    /// Reads the function that begins in a line; gives the line behind it.
    fn function(&mut self, lines: &[&str], start: usize) -> Result<usize, String> {
        let name = lines[start].split('(').next().and_then(|head| head.split_whitespace().last()).unwrap_or("").to_owned();
        let open = (start..lines.len()).find(|at| lines[*at] == "{").ok_or("a function has no body")?;
        let head = lines[start..open].join(" ");
        let parameters: Vec<String> = head
            .split(['(', ')', ','])
            .filter(|part| part.trim_start().starts_with(".param"))
            .filter_map(|part| part.split_whitespace().last().map(str::to_owned))
            .collect();
        let mut function = Function { name, parameters: parameters.len(), ..Function::default() };
        let mut names = Names { registers: HashMap::new(), parameters, module: self };
        let (mut at, mut statement, mut depth) = (open + 1, String::new(), 1);
        while depth > 0 {
            let line = lines[at];
            at += 1;
            // Arguments of a call stand in braces of their own.
            match line {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if matches!(line, "" | "{" | "}")
                || line.starts_with(".reg")
                || line.starts_with(".pragma")
                || line.starts_with(".param")
                || line.starts_with(".local")
                || line.starts_with(".shared")
            {
                continue;
            }
            if let Some(label) = line.strip_suffix(':') {
                function.labels.insert(label.to_owned(), function.code.len());
                continue;
            }
            statement.push(' ');
            statement.push_str(line);
            if line.ends_with(';') {
                let read = names.instruction(statement.trim().trim_end_matches(';'), at)?;
                function.code.push(read);
                statement.clear();
            }
        }
        function.registers = names.registers.len();
        for instruction in &mut function.code {
            if let Do::Label(label) = &instruction.does {
                let at = function.labels.get(label).ok_or_else(|| format!("there is no label `{label}`"))?;
                instruction.does = Do::Jump(*at);
            }
        }
        self.functions.insert(function.name.clone(), Arc::new(function));
        Ok(at)
    }
}

impl Names<'_> {
    fn register(&mut self, name: &str) -> usize {
        let next = self.registers.len();
        *self.registers.entry(name.to_owned()).or_insert(next)
    }

    fn source(&mut self, text: &str) -> Result<Source, String> {
        Ok(match text {
            "%tid.x" => Source::Thread,
            "%ctaid.x" => Source::Block,
            "%nctaid.x" => Source::Blocks,
            "%laneid" => Source::Lane,
            _ if text.starts_with('%') => Source::Register(self.register(text)),
            _ => Source::Bits(match self.module.names.get(text) {
                Some(variable) => variable.place,
                None => ops::literal(text).ok_or_else(|| format!("`{text}` is no operand"))?,
            }),
        })
    }

    fn place(&mut self, text: &str) -> Result<Place, String> {
        let inner = text.trim_matches(['[', ']']);
        let (base, offset) = match inner.split_once('+') {
            Some((base, offset)) => (base, offset.trim().parse().map_err(|_| format!("`{text}` is no address"))?),
            None => (inner, 0),
        };
        Ok(Place { base: self.source(base.trim())?, offset })
    }

    fn instruction(&mut self, text: &str, line: usize) -> Result<Instruction, String> {
        let (guard, text) = match text.strip_prefix('@') {
            Some(rest) => {
                let (guard, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                let negated = guard.starts_with('!');
                (Some((self.register(guard.trim_start_matches('!')), negated)), rest.trim())
            }
            None => (None, text),
        };
        let (opcode, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let does = self.does(opcode, rest.trim()).map_err(|what| format!("line {line}: {what}: {text}"))?;
        Ok(Instruction { guard, does, line })
    }

    fn does(&mut self, opcode: &str, rest: &str) -> Result<Do, String> {
        let parts: Vec<&str> = opcode.split('.').collect();
        let lists = operands(rest);
        let flat: Vec<&str> = lists.iter().flatten().copied().collect();
        let space = if parts.contains(&"shared") { Space::Shared } else { Space::Global };
        Ok(match parts[0] {
            "bra" => Do::Label(rest.to_owned()),
            "ret" => Do::Return,
            "call" => Do::Call(flat[0].to_owned()),
            "bar" if parts[1] == "sync" => Do::Meet,
            "bar" => Do::Gather,
            "fence" | "prefetch" | "nanosleep" | "createpolicy" => Do::Nothing,
            "ld" if parts[1] == "param" => Do::Parameter(self.register(flat[0]), self.parameter(flat[1])?),
            "st" if parts[1] == "param" => {
                let digits = flat[0].trim_matches(['[', ']']).trim_start_matches("param");
                Do::Argument(digits.parse().map_err(|_| "no argument")?, self.source(flat[1])?)
            }
            "ld" => {
                let kind = parts[parts.len() - 1];
                let into = lists[0].iter().map(|name| self.register(name)).collect();
                Do::Load(space, into, self.place(flat[flat.len() - 1])?, ops::bytes(kind)?, kind.starts_with('s'))
            }
            "st" => {
                let what = flat[1..].iter().map(|name| self.source(name)).collect::<Result<_, _>>()?;
                Do::Store(space, self.place(flat[0])?, what, ops::bytes(parts[parts.len() - 1])?)
            }
            "mov" if lists[0].len() > 1 => {
                let bits = 8 * ops::bytes(parts[1])? / lists[0].len();
                Do::Split(lists[0].iter().map(|name| self.register(name)).collect(), self.source(lists[1][0])?, bits as u32)
            }
            "mov" if lists[1].len() > 1 => {
                let bits = 8 * ops::bytes(parts[1])? / lists[1].len();
                let what = lists[1].iter().map(|name| self.source(name)).collect::<Result<_, _>>()?;
                Do::Join(self.register(lists[0][0]), what, bits as u32)
            }
            _ => match together(&parts) {
                Some((what, results)) => self.together(what, &flat, results)?,
                None => match ops::find(opcode) {
                    Some(pure) => {
                        let what = flat[1..].iter().map(|name| self.source(name)).collect::<Result<_, _>>()?;
                        Do::Pure(pure, self.register(flat[0]), what)
                    }
                    None => Do::Unknown(opcode.to_owned()),
                },
            },
        })
    }

    fn parameter(&self, text: &str) -> Result<usize, String> {
        let name = text.trim_matches(['[', ']']);
        self.parameters.iter().position(|own| own == name).ok_or_else(|| format!("`{name}` is no parameter"))
    }

    /// Addresses are their register and offset, one behind the other.
    fn together(&mut self, what: Together, flat: &[&str], results: usize) -> Result<Do, String> {
        let into = flat[..results].iter().map(|name| self.register(name)).collect();
        let mut sources = Vec::new();
        for text in &flat[results..] {
            if text.starts_with('[') {
                let place = self.place(text)?;
                sources.extend([place.base, Source::Bits(place.offset as u64)]);
            } else {
                sources.push(self.source(text)?);
            }
        }
        Ok(Do::Together(what, into, sources))
    }
}
