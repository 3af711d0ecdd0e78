//! Modules and imports: loads every file that the root needs and says which names each can see.

use std::collections::HashMap;

use crate::{
    ast::{File, Item, UseTarget},
    diagnostic::{Code, Diagnostic, did_you_mean},
    parse,
    source::{SourceMap, Sources},
    span::Span,
};

/// Names one module of a [`Program`].
pub type ModuleId = usize;

/// One loaded file.
#[derive(Debug, Default)]
pub struct Module {
    /// Its tree.
    pub file: File,
    /// Which modules it imports, in order.
    pub uses: Vec<ModuleId>,
    own: HashMap<String, usize>,
}

/// All files that the root needs.
#[derive(Debug, Default)]
pub struct Program {
    /// The files; the root is [`Program::root`].
    pub modules: Vec<Module>,
    /// The modules whose names are always in scope.
    pub prelude: Vec<ModuleId>,
    /// The root.
    pub root: ModuleId,
    /// Where a policy for the whole model is named, if one is.
    pub policy: Option<ModuleId>,
}

impl Program {
    /// The item that a name means in a module, and the module that declares it.
    pub fn lookup(&self, from: ModuleId, name: &str) -> Option<(ModuleId, &Item)> {
        let module = self.modules.get(from)?;
        let seen = std::iter::once(&from).chain(&module.uses).chain(&self.prelude);
        seen.filter_map(|m| Some((*m, self.modules.get(*m)?)))
            .find_map(|(id, m)| m.own.get(name).and_then(|i| m.file.items.get(*i)).map(|item| (id, item)))
    }

    /// All names that a module can see.
    pub fn visible(&self, from: ModuleId) -> impl Iterator<Item = &str> {
        let uses = self.modules.get(from).map(|m| m.uses.as_slice()).unwrap_or_default();
        let seen = std::iter::once(from).chain(uses.iter().copied()).chain(self.prelude.iter().copied());
        seen.filter_map(|m| self.modules.get(m)).flat_map(|m| m.own.keys().map(String::as_str))
    }
}

/// What the text of a policy is called in diagnostics.
const POLICY: &str = "--policy";

/// Loads the root and what it needs; `policy` is a block with arguments, as the root could write it.
pub fn load(sources: &dyn Sources, root: &str, policy: Option<&str>) -> (Program, SourceMap, Vec<Diagnostic>) {
    let mut loader =
        Loader { sources, map: SourceMap::default(), program: Program::default(), errors: Vec::new(), state: HashMap::new() };
    match sources.read(root) {
        Some(text) => loader.program.root = loader.add(root, text),
        None => {
            loader.errors.push(Diagnostic::new(Code::UnknownModule, Span::default(), format!("there is no file `{root}`")));
        }
    }
    for name in sources.prelude() {
        let path = module_path(&name);
        match loader.state.get(&path) {
            Some(Loading::Done(id) | Loading::Open(id)) => loader.program.prelude.push(*id),
            None => {
                if let Some(text) = sources.read(&path) {
                    let id = loader.add(&path, text);
                    loader.program.prelude.push(id);
                }
            }
        }
    }
    if let Some(text) = policy {
        loader.policy(text);
    }
    (loader.program, loader.map, loader.errors)
}

#[derive(Clone, Copy)]
enum Loading {
    Open(ModuleId),
    Done(ModuleId),
}

struct Loader<'s> {
    sources: &'s dyn Sources,
    map: SourceMap,
    program: Program,
    errors: Vec<Diagnostic>,
    state: HashMap<String, Loading>,
}

/// How long a chain of imports may be.
const CHAIN: usize = 64;

impl Loader<'_> {
    /// A module with an item that names the policy, which sees what the root sees.
    fn policy(&mut self, text: &str) {
        let root = self.program.root;
        let uses = self.program.modules.get(root).map(|root| root.uses.clone()).unwrap_or_default();
        let call = if text.contains('(') { "" } else { "()" };
        let id = self.add(POLICY, format!("model policy = {}{call}", text.trim()));
        self.program.modules[id].uses = std::iter::once(root).chain(uses).collect();
        self.program.policy = Some(id);
    }

    fn add(&mut self, path: &str, text: String) -> ModuleId {
        self.add_at(path, text, 0)
    }

    fn add_at(&mut self, path: &str, text: String, depth: usize) -> ModuleId {
        let id = self.program.modules.len();
        let file_id = self.map.add(path, text.clone());
        self.state.insert(path.to_owned(), Loading::Open(id));
        let file = parse::parse_file(&text, file_id).unwrap_or_else(|errors| {
            self.errors.extend(errors);
            File::default()
        });
        let own = self.own_names(&file);
        self.program.modules.push(Module { file, uses: Vec::new(), own });
        let imports: Vec<_> = self.program.modules[id].file.items.iter().filter_map(import).collect();
        for (target, span) in imports {
            if let Some(used) = self.import(path, &target, span, depth) {
                self.program.modules[id].uses.push(used);
            }
        }
        self.state.insert(path.to_owned(), Loading::Done(id));
        id
    }

    fn own_names(&mut self, file: &File) -> HashMap<String, usize> {
        let mut own: HashMap<String, usize> = HashMap::new();
        for (n, item) in file.items.iter().enumerate() {
            let Some(name) = item.name() else { continue };
            if let Some(first) = own.get(&name.name).and_then(|f| file.items[*f].name()) {
                let error = Diagnostic::new(Code::Duplicate, name.span, format!("`{}` is declared twice", name.name));
                self.errors.push(error.at(first.span, "first declared here"));
            } else {
                own.insert(name.name.clone(), n);
            }
        }
        own
    }

    fn import(&mut self, from: &str, target: &UseTarget, span: Span, depth: usize) -> Option<ModuleId> {
        let path = match target {
            UseTarget::Module(name) => module_path(name),
            UseTarget::File(name) => relative(from, name),
        };
        match self.state.get(&path) {
            Some(Loading::Done(id)) => return Some(*id),
            Some(Loading::Open(_)) => {
                let error = Diagnostic::new(Code::CyclicImport, span, format!("cyclic import: `{path}` imports itself"));
                self.errors.push(error.label("this closes the circle").note(format!("`{from}` is loaded by `{path}`")));
                return None;
            }
            None => {}
        }
        if depth >= CHAIN {
            self.errors.push(Diagnostic::new(Code::TooDeep, span, format!("more than {CHAIN} imports in a chain")));
            return None;
        }
        let Some(text) = self.sources.read(&path) else {
            let known = self.sources.prelude();
            let error = Diagnostic::new(Code::UnknownModule, span, format!("there is no module `{path}`"));
            let hint = did_you_mean(&path, known.iter().map(String::as_str));
            self.errors.push(error.label("not found").maybe_hint(hint));
            return None;
        };
        Some(self.add_at(&path, text, depth + 1))
    }
}

fn import(item: &Item) -> Option<(UseTarget, Span)> {
    match item {
        Item::Use(u) => Some((u.target.clone(), u.span)),
        _ => None,
    }
}

/// The file of a dotted module name; a name that is a file already stays.
fn module_path(name: &str) -> String {
    if name.ends_with(".braid") { name.to_owned() } else { format!("{}.braid", name.replace('.', "/")) }
}

/// A file named in another one.
fn relative(from: &str, name: &str) -> String {
    if name.starts_with('/') {
        return name.to_owned();
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            "." | "" => {}
            ".." if parts.last().is_some_and(|p| *p != ".." && !p.is_empty()) => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.join("/")
}
