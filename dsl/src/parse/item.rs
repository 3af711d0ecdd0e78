//! Items.

use super::{Builder, Node, Parsed, Rule, item_doc};
use crate::{
    ast::{Alias, Arg, AxisList, Block, Body, CParam, CType, Fn, Ident, Input, Item, TensorType, Use, UseTarget},
    model::Elem,
    span::Span,
};

impl Builder<'_> {
    /// An item; `None` for the end of the file.
    pub(super) fn item(&self, node: Node<'_>) -> Parsed<Option<Item>> {
        Ok(Some(match node.as_rule() {
            Rule::use_item => Item::Use(self.use_item(node)),
            Rule::fn_item => Item::Fn(self.fn_item(node)?),
            Rule::alias_item => Item::Alias(self.alias(node)?),
            Rule::block_item => Item::Block(self.block(node)?),
            _ => return Ok(None),
        }))
    }

    fn use_item(&self, node: Node<'_>) -> Use {
        let span = self.span(&node);
        let mut target = UseTarget::Module(String::new());
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::path => target = UseTarget::Module(part.as_str().to_owned()),
                Rule::string => target = UseTarget::File(part.as_str().trim_matches('"').to_owned()),
                _ => {}
            }
        }
        Use { target, span }
    }

    fn name(&self, found: Option<Ident>, span: Span) -> Parsed<Ident> {
        found.ok_or_else(|| self.missing(span, "a name"))
    }

    fn fn_item(&self, node: Node<'_>) -> Parsed<Fn> {
        let span = self.span(&node);
        let doc = item_doc(self.text, span.start as usize);
        let (mut name, mut axes, mut params, mut body) = (None, Vec::new(), Vec::new(), None);
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::ident => name = Some(self.ident(&part)),
                Rule::names_axes => axes = self.idents(part),
                Rule::fn_params => params = self.idents(part),
                Rule::expr => body = Some(self.expr(part, 0)?),
                _ => {}
            }
        }
        let body = body.ok_or_else(|| self.missing(span, "an expression"))?;
        Ok(Fn { doc, name: self.name(name, span)?, axes, params, body, span })
    }

    fn alias(&self, node: Node<'_>) -> Parsed<Alias> {
        let span = self.span(&node);
        let doc = item_doc(self.text, span.start as usize);
        let (mut names, mut args, mut policy, mut stores) = (Vec::new(), Vec::new(), None, Vec::new());
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::ident => names.push(self.ident(&part)),
                Rule::call => args = self.args(part, 0)?,
                Rule::under => policy = Some(self.under(part)?),
                Rule::store_stmt => stores.push(self.store(part, 0)?),
                _ => {}
            }
        }
        let base = self.name(names.pop(), span)?;
        Ok(Alias { doc, name: self.name(names.pop(), span)?, base, args, policy, stores, span })
    }

    fn under(&self, node: Node<'_>) -> Parsed<(Ident, Vec<Arg>)> {
        let (span, mut name, mut args) = (self.span(&node), None, Vec::new());
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::ident => name = Some(self.ident(&part)),
                Rule::call => args = self.args(part, 0)?,
                _ => {}
            }
        }
        Ok((self.name(name, span)?, args))
    }

    fn block(&self, node: Node<'_>) -> Parsed<Block> {
        let span = self.span(&node);
        let doc = item_doc(self.text, span.start as usize);
        let name = Ident { name: String::new(), span };
        let body = Body { stmts: Vec::new(), span };
        let (params, inputs, outputs, wheres) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut block = Block { doc, is_model: false, name, params, inputs, outputs, wheres, body, span };
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::k_model => block.is_model = true,
                Rule::ident => block.name = self.ident(&part),
                Rule::cparams => block.params = part.into_inner().map(|n| self.cparam(n)).collect::<Parsed<_>>()?,
                Rule::inputs => block.inputs = part.into_inner().map(|n| self.input(n)).collect::<Parsed<_>>()?,
                Rule::outputs => block.outputs = part.into_inner().map(|n| self.tensor_type(n)).collect(),
                Rule::wheres => {
                    let wheres = part.into_inner().filter(|n| n.as_rule() == Rule::expr);
                    block.wheres = wheres.map(|n| self.expr(n, 0)).collect::<Parsed<_>>()?;
                }
                Rule::body => block.body = self.body(part, 0)?,
                _ => {}
            }
        }
        Ok(block)
    }

    fn cparam(&self, node: Node<'_>) -> Parsed<CParam> {
        let span = self.span(&node);
        let (mut name, mut ty, mut default) = (None, CType::Int, None);
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::ident => name = Some(self.ident(&part)),
                Rule::scalar_type => ty = scalar(part.as_str()),
                Rule::list_type => ty = list(part.into_inner().next().map_or("", |n| n.as_str())),
                Rule::expr => default = Some(self.expr(part, 0)?),
                _ => {}
            }
        }
        Ok(CParam { name: self.name(name, span)?, ty, default, span })
    }

    fn input(&self, node: Node<'_>) -> Parsed<Input> {
        let span = self.span(&node);
        let mut inner = node.into_inner();
        match (inner.next(), inner.next()) {
            (Some(name), Some(ty)) => Ok(Input { name: self.ident(&name), ty: self.tensor_type(ty) }),
            _ => Err(self.missing(span, "a type")),
        }
    }

    fn tensor_type(&self, node: Node<'_>) -> TensorType {
        let span = self.span(&node);
        let mut ty = TensorType { elem: None, axes: AxisList { names: Vec::new(), rest: None, span }, span };
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::elem => {
                    ty.elem = Some(match part.as_str() {
                        "int" => Elem::Int,
                        "bool" => Elem::Bool,
                        _ => Elem::Float,
                    })
                }
                _ => ty.axes = self.axis_list(part),
            }
        }
        ty
    }

    pub(super) fn axis_list(&self, node: Node<'_>) -> AxisList {
        let mut list = AxisList { names: Vec::new(), rest: None, span: self.span(&node) };
        for part in node.into_inner() {
            match part.as_rule() {
                Rule::rest => list.rest = Some(list.names.len()),
                _ => list.names.push(self.ident(&part)),
            }
        }
        list
    }
}

fn scalar(word: &str) -> CType {
    match word {
        "dim" => CType::Dim,
        "dims" => CType::Dims,
        "float" => CType::Float,
        "bool" => CType::Bool,
        "string" => CType::String,
        "block" => CType::Block,
        _ => CType::Int,
    }
}

fn list(word: &str) -> CType {
    match word {
        "float" => CType::Floats,
        "bool" => CType::Bools,
        "string" => CType::Strings,
        _ => CType::Ints,
    }
}
