//! States and texts that go on in another process.

use super::{Desk, has};
use std::path::Path;

/// The ids that a command line prints.
fn ids(desk: &Desk, line: &str) -> Vec<serde_json::Value> {
    let words: Vec<&str> = line.split(' ').collect();
    let text = desk.check(0, &words);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    json["ids"].as_array().expect("ids").clone()
}

#[test]
fn a_state_goes_on_in_another_process() {
    let desk = Desk::new();
    desk.check(0, &["build", "small.braid", "-o", "small.braidart"]);
    let run = "run small.braidart --weights random:1 --temperature 0 --json";
    let whole = ids(&desk, &format!("{run} --ids 1,2,3 -n 12"));
    let first = ids(&desk, &format!("{run} --ids 1,2,3 -n 5 --save-state five.state --threads 1"));
    let rest = ids(&desk, &format!("{run} -n 7 --load-state five.state --save-state all.state --threads 2"));
    assert_eq!([first, rest].concat(), whole);
    // A prompt that is kept, and a continuation of it in two ways.
    assert!(ids(&desk, &format!("{run} --ids 1,2,3 -n 0 --save-state prompt.state")).is_empty());
    assert_eq!(ids(&desk, &format!("{run} -n 12 --load-state prompt.state")), whole);
    let other = ids(&desk, &format!("{run} --ids 7 -n 4 --load-state prompt.state"));
    assert_eq!(other, ids(&desk, &format!("{run} --ids 1,2,3,7 -n 4")));
    assert_eq!(desk.files(), ["all.state", "five.state", "prompt.state", "small.braid", "small.braidart", "small.h"]);
    has(
        &desk.check(0, &["info", "small.braidart", "--states"]),
        &["goes back     from a snapshot: 1 recurrence", "h [d 8]  recurrence"],
    );
}

#[test]
fn a_text_goes_on_in_another_process() {
    let desk = Desk::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tiny-hybrid");
    let folder = folder.to_string_lossy();
    let run = |rest: &[&str]| desk.check(0, &[&["run", &folder, "--temperature", "0"], rest].concat());
    let text = |output: &str| output.lines().next().unwrap_or_default().to_owned();
    let whole = text(&run(&["--prompt", "Once upon a time", "-n", "24"]));
    let first = text(&run(&["--prompt", "Once upon a time", "-n", "10", "--save-state", "a.state"]));
    let rest = text(&run(&["--load-state", "a.state", "-n", "14", "--context", "100"]));
    assert_eq!(first + &rest, whole);
    has(&run(&["--load-state", "a.state", "-n", "3", "--prompt", " The king"]), &[" The king "]);
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let desk = Desk::new();
    desk.check(0, &["build", "small.braid", "-o", "small.braidart"]);
    let run = |line: &str| desk.check(1, &["run"].into_iter().chain(line.split(' ')).collect::<Vec<_>>());
    desk.check(0, &["run", "small.braidart", "-w", "random:1", "--ids", "1", "-n", "2", "--save-state", "a.state"]);
    has(&run("small.braidart -w random:2 --load-state a.state"), &["a.state: saved with other weights", "--weights"]);
    has(&run("small.braid --set d=9 -w random:1 --load-state a.state"), &["whose states are not those of `small`"]);
    has(&run("small.braidart -w random:1 --load-state small.braid"), &["not a safetensors file"]);
    has(&run("small.braidart -w random:1 --load-state none"), &["cannot read none"]);
    has(&run("small.braidart -w random:1 --ids 1 --save-state no/such/folder"), &["cannot write no/such/folder"]);
    let state = std::fs::read(desk.path("a.state")).expect("a state");
    std::fs::write(desk.path("cut.state"), &state[..state.len() - 9]).expect("a file");
    has(&run("small.braidart -w random:1 --load-state cut.state"), &["cut.state: truncated"]);
    has(&run("small.braidart -w random:1"), &["there is no text to continue"]);
}
