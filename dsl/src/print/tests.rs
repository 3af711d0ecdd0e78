//! Small files with their canonical text, and that formatting twice changes nothing.

fn canonical(text: &str) -> String {
    let once = crate::format(text).expect("the text parses");
    assert_eq!(crate::format(&once).expect("the canonical text parses"), once, "formatting twice");
    once
}

#[test]
fn spaces_and_signs_become_canonical() {
    let text = "fn  f( x ,y )=x*( y+1 )\nblock b(d:dim)(x:[..,d])->[..,d]where d>0&d<9{param w:[d]\nreturn x*w}\n";
    let want = "fn f(x, y) = x * (y + 1)\n\nblock b(d: dim)(x: [.., d]) -> [.., d] where d > 0 && d < 9 {\n  param w: [d]\n  return x * w\n}\n";
    assert_eq!(canonical(text), want);
}

#[test]
fn comments_stay_where_they_were() {
    let text = "//! A file.\n\n// Alone.\n\n/// A block.\nblock b()(x: [..]) -> [..] {  // at the brace\n  // before\n  y = x    // behind\n\n  // last\n  return y\n  // end\n}\n// after\n";
    let out = canonical(text);
    for comment in [
        "//! A file.\n",
        "// Alone.\n",
        "/// A block.\nblock",
        "{  // at the brace\n",
        "  // before\n  y = x  // behind\n\n  // last\n",
    ] {
        assert!(out.contains(comment), "{comment:?} in\n{out}");
    }
    assert!(out.ends_with("  // end\n}\n// after\n"), "{out}");
}

#[test]
fn a_comment_inside_an_expression_moves_before_it() {
    let out = canonical("fn f(x) = match x {\n  1 => 2, // one\n  _ => 3,\n}\n");
    assert_eq!(out, "// one\nfn f(x) = match x {\n  1 => 2,\n  _ => 3,\n}\n");
}

#[test]
fn statements_share_a_line_as_in_the_text() {
    let text = "block b(d: dim)(x: [d]) -> [d] {\n  param a: [d]     param b: [d]\n  if d > 1 { x = x + a     x = x * b }\n  return x\n}\n";
    let want =
        "block b(d: dim)(x: [d]) -> [d] {\n  param a: [d]   param b: [d]\n  if d > 1 { x = x + a   x = x * b }\n  return x\n}\n";
    assert_eq!(canonical(text), want);
}

#[test]
fn long_lines_are_broken_at_arguments() {
    let args: Vec<String> = (0..30).map(|n| format!("argument_{n}: {n}")).collect();
    let out = canonical(&format!("model m = base({})\n", args.join(",")));
    assert!(out.starts_with("model m = base(\n  argument_0: 0, argument_1: 1,"), "{out}");
    assert!(out.ends_with("argument_29: 29,\n)\n"), "{out}");
    assert!(out.lines().all(|l| l.chars().count() <= 130), "{out}");
}

#[test]
fn every_construct_survives() {
    let text = "use models.a\nuse \"b.braid\"\nmodel small = base(d: 3) under p(n: 2)\n  store \"layers.*\" as \"int8\"\n  store \"embed\" as \"bf16\"\n\nmodel m(l: [int] = [1, 2], b: block = f(x: 1))(tokens: int [t]) -> float [t, v], [t] where l[0] == 1 {\n  dim h = 2 ^ -1\n  param w, u: [h] as \"int4\"\n  store \"a.*\" as l[0]\n  share q = b(x: \"a\\\"b\")\n  repeat i in 0..len(l) as name {\n    (a, c) = q(x)\n  }\n  recur S: [h, k], m: [h] = -inf over t {\n    S = S + 1\n  }\n  if a { x = 1 } else if b { x = 2 } else { x = 3 }\n  o = attend[k](q, k, v) { keep: causal() && within(3)   score: s * k ^ -0.5 }\n  y = x[a as b][a as (h, k)][(h, k) as a][a: 0..n as b][a: 3][a: ids] + concat[a, b as d](x, y)\n  z = route[e](ids) { f(x) } + mean[a, b] x - (if c { 1 } else { 2 }) * match k { 1 | -2 => a, \"b\" => c, _ => d }\n  generate autoregressive\n  return x, y\n}\n";
    assert_eq!(canonical(text).split_whitespace().collect::<String>(), text.split_whitespace().collect::<String>());
}
