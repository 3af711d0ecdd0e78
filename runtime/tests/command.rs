//! `braid-run` as a user meets it: output, messages, exit codes.

#[allow(dead_code, missing_docs, reason = "shared with the tests of the whole")]
#[path = "../../tests/src/runtime/fake.rs"]
mod fake;

#[allow(dead_code, missing_docs, reason = "shared with the tests of the whole")]
#[path = "../../tests/src/gguf/writer.rs"]
mod writer;

use braid_runtime::artifact::Manifest;
use fake::{D, Fake, VOCAB};
use std::io::Write;
use std::process::{Command, Stdio};

const PROMPT: [i32; 4] = [3, 1, 4, 1];

struct Output {
    code: i32,
    out: String,
    err: String,
}

/// Runs `braid-run` in the fake's folder.
fn braid_run(fake: &Fake, line: &str) -> Output {
    finished(&mut command(fake, line))
}

fn command(fake: &Fake, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_braid-run"));
    command.args(line.split_whitespace()).current_dir(fake.folder.path());
    command
}

fn finished(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Output { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn joined(ids: &[i32]) -> String {
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn run_streams_token_ids() {
    let fake = Fake::new();
    let found = braid_run(&fake, "run fake.so --weights . --ids 3,1,4,1 --max-tokens 9 --threads 2");
    assert_eq!((found.code, found.out), (0, joined(&fake.greedy(&PROMPT, 9)) + "\n"));
    assert!(found.err.contains("prefill 4 tokens") && found.err.contains("decode 8 steps") && found.err.contains("2 threads"));
    let again = braid_run(&fake, "run fake.so -w . --ids 3,1,4,1 -n 30 --temperature 2 --top-k 20 --seed 5");
    assert_eq!(again.out, braid_run(&fake, "run fake.so -w . --ids 3,1,4,1 -n 30 --temperature 2 --top-k 20 --seed 5").out);
    assert_ne!(again.out, braid_run(&fake, "run fake.so -w . --ids 3,1,4,1 -n 30 --temperature 2 --top-k 20 --seed 6").out);
}

/// `… 2>&1 | head`: whoever reads stops early, and no message has a reader.
#[test]
fn nobody_reads() {
    let fake = Fake::new();
    for line in ["run fake.so --weights . --ids 3,1,4,1 --max-tokens 9", "info fake.so", "info missing.so"] {
        let closed = || Stdio::from(std::io::pipe().unwrap().1);
        let status = command(&fake, line).stdout(closed()).stderr(closed()).status().unwrap();
        assert!(matches!(status.code(), Some(0..=2)), "{line}: {status}");
        // With nobody for messages alone, results come as ever.
        let output = command(&fake, line).stderr(closed()).output().unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.is_empty()),
            if line.contains("missing") { (Some(1), true) } else { (Some(0), false) }
        );
    }
}

#[test]
fn run_prints_json() {
    let fake = Fake::new();
    let found = braid_run(&fake, "run fake.so --weights . --ids 3,1,4,1 --max-tokens 5 --json");
    let json: serde_json::Value = serde_json::from_str(&found.out).unwrap();
    assert_eq!(json["ids"], serde_json::json!(fake.greedy(&PROMPT, 5)));
    assert_eq!((&json["finish"], &json["prefill"]["tokens"]), (&"length".into(), &4.into()));
    assert!(json["decode"]["tokens_per_second"].as_f64().unwrap() > 0.0 && found.err.is_empty());
}

#[test]
fn run_stops_at_the_end_of_the_sequence() {
    let fake = Fake::new();
    let wanted = fake.greedy(&PROMPT, 12);
    let stop = wanted[5];
    let first = wanted.iter().position(|id| *id == stop).unwrap();
    std::fs::write(fake.path("config.json"), format!("{{\"eos_token_id\": {stop}}}")).unwrap();
    let line = "run fake.so --weights . --ids 3,1,4,1 --max-tokens 12";
    assert_eq!(braid_run(&fake, line).out, joined(&wanted[..first]) + "\n");
    assert_eq!(braid_run(&fake, &format!("{line} --ignore-eos")).out, joined(&wanted) + "\n");
}

#[test]
fn logits_then_verify() {
    let fake = Fake::new();
    let ids: Vec<i32> = vec![3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 0, 39, 38];
    let logits: Vec<f32> = ids.chunks(7).flat_map(|row| fake.reference(row).concat()).collect();
    golden(&fake, &ids, &logits);
    let found = braid_run(&fake, "logits fake.so --weights . --ids golden.safetensors -o out.safetensors");
    assert_eq!((found.code, &found.out[..], &found.err[..]), (0, "", ""));
    let out = braid_runtime::checkpoint::Checkpoint::open(&fake.path("out.safetensors")).unwrap();
    let tensor = out.require("logits").unwrap();
    assert_eq!(tensor.shape, [2, 7, VOCAB]);
    for (bytes, wanted) in tensor.bytes.as_chunks().0.iter().zip(&logits) {
        assert!((f32::from_le_bytes(*bytes) - wanted).abs() < 1e-5);
    }
    // What was written is a golden file.
    let found = braid_run(&fake, "verify fake.so --weights . --golden out.safetensors --tolerance 0");
    assert!(found.code == 0 && found.out.contains("row 1, whole sequence"), "{}", found.err);
    assert_eq!(braid_run(&fake, "logits fake.so --weights . --ids 3,1,4,1,5,9,2 -o row.safetensors").code, 0);
    let row = braid_runtime::checkpoint::Checkpoint::open(&fake.path("row.safetensors")).unwrap();
    assert_eq!(row.require("logits").unwrap().bytes, &tensor.bytes[..7 * VOCAB * 4]);
    let found = braid_run(&fake, "verify fake.so --weights . --golden golden.safetensors --tolerance 1e-5");
    assert_eq!(found.code, 0, "{}", found.err);
    assert!(
        found.out.contains("row 1, whole sequence") && found.out.contains("row 0, greedy tokens        6 of 6"),
        "{}",
        found.out
    );
    let worse: Vec<f32> = logits.iter().enumerate().map(|(at, logit)| if at == 300 { logit + 0.01 } else { *logit }).collect();
    golden(&fake, &ids, &worse);
    let found = braid_run(&fake, "verify fake.so --weights . --golden golden.safetensors --tolerance 1e-3");
    assert_eq!(found.code, 1);
    assert!(found.err.contains("the largest difference is 1.000e-2, beyond 1.000e-3"), "{}", found.err);
    let found = braid_run(&fake, "verify fake.so --weights . --golden golden.safetensors --tolerance 0.1 --json");
    let json: serde_json::Value = serde_json::from_str(&found.out).unwrap();
    assert_eq!(json["report"]["decoding"][1]["equal"], 6);
}

/// Two rows of seven ids with logits; the first three ids of each row as prompts, with six greedy tokens.
fn golden(fake: &Fake, ids: &[i32], logits: &[f32]) {
    let prompts: Vec<i32> = ids.chunks(7).flat_map(|row| row[..3].to_vec()).collect();
    let generated: Vec<i32> = prompts.chunks(3).flat_map(|prompt| fake.greedy(prompt, 6)).collect();
    let chosen: Vec<f32> = prompts
        .chunks(3)
        .zip(generated.chunks(6))
        .flat_map(|(prompt, generated)| fake.reference(&[prompt, &generated[..5]].concat())[2..].concat())
        .collect();
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    let mut add = |name: &str, kind: &str, shape: &[usize], bytes: Vec<u8>| {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.into(), serde_json::json!({"dtype": kind, "shape": shape, "data_offsets": offsets}));
        data.extend(bytes);
    };
    let long = |ids: &[i32]| ids.iter().flat_map(|id| i64::from(*id).to_le_bytes()).collect::<Vec<u8>>();
    let floats = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    add("input_ids", "I64", &[2, 7], long(ids));
    add("logits", "F32", &[2, 7, VOCAB], floats(logits));
    add("prompt_ids", "I64", &[2, 3], long(&prompts));
    add("generated_ids", "I64", &[2, 6], long(&generated));
    add("generated_logits", "F32", &[2, 6, VOCAB], floats(&chosen));
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(fake.path("golden.safetensors"), file).unwrap();
}

#[test]
fn pack_and_info() {
    let fake = Fake::new();
    assert_eq!(braid_run(&fake, "pack fake.so --weights . -o weights.bin").code, 0);
    let found = braid_run(&fake, "run fake.so --weights weights.bin --ids 3,1,4,1 --max-tokens 4");
    assert_eq!(found.out, joined(&fake.greedy(&PROMPT, 4)) + "\n");
    let found = braid_run(&fake, "info fake.so --params").out;
    assert!(
        found.contains("1960 in 3 tensors") && found.contains("head.w [d 24, vocab 40]  model.head.weight [40, 24]"),
        "{found}"
    );
    let json: serde_json::Value = serde_json::from_str(&braid_run(&fake, "info fake.so --json").out).unwrap();
    assert_eq!(json["max_rows"], 5);
}

#[test]
fn errors_say_what_to_do() {
    let fake = Fake::new();
    std::fs::write(fake.path("text.txt"), "once upon a time").unwrap();
    let cases = [
        ("run text.txt --weights . --ids 1", 1, "text.txt: not an artifact\nhint: `braid build SPEC -o FILE` writes artifacts"),
        ("run none.so --weights . --ids 1", 1, "cannot read none.so"),
        ("run fake.so --weights nowhere --ids 1", 1, "cannot open nowhere"),
        ("run fake.so --weights text.txt --ids 1", 1, "text.txt: a header of"),
        ("run fake.so --weights . --prompt hello", 1, "no tokenizer.json beside the weights"),
        ("run fake.so --weights . --ids 1,40", 1, "token id 40 at place 1 is out of range: the model has 40 tokens, 0 to 39"),
        (
            "run fake.so --weights . --ids 1 -n 40 --context 16",
            1,
            "context overflow: 40 positions are needed, but the caches hold 16",
        ),
        ("run fake.so --weights . --ids 1 --temperature -1", 2, "unexpected argument"),
        ("run fake.so --weights . --ids 1 --temperature=-1", 1, "temperature -1"),
        ("run fake.so --weights random:x --ids 1", 1, "`x` is not a seed"),
        ("run fake.so --weights .", 1, "give `--prompt`"),
        ("run fake.so --weights . --ids 1 --threads 0", 2, "0 is not in 1..=1024"),
        ("verify fake.so --weights . --golden model.safetensors", 1, "not a golden file"),
        ("logits fake.so --weights . --ids model.safetensors -o out", 1, "no tensor `input_ids`"),
        ("dance", 2, "unrecognized subcommand"),
    ];
    for (line, code, message) in cases {
        let found = braid_run(&fake, line);
        assert_eq!(found.code, code, "{line}: {}", found.err);
        assert!(found.err.contains(message), "{line}: {}", found.err);
        assert!(!found.err.contains("panicked"));
    }
    assert!(braid_run(&fake, "--help").out.contains("braid-run verify model.braidart"));
}

/// Runs `braid-run` with the driver in the fake's folder, in a certain mood.
fn on_gpu(fake: &Fake, mood: &str, line: &str) -> Output {
    let mut command = command(fake, line);
    finished(command.env("LD_LIBRARY_PATH", fake.folder.path()).env("FAKE_CUDA", mood))
}

#[test]
fn a_gpu_does_what_the_processor_does() {
    let (fake, cpu) = (Fake::on_gpu(), Fake::new());
    let wanted = joined(&fake.greedy(&PROMPT, 12)) + "\n";
    let found = on_gpu(&fake, "", "run fake.so --weights . --ids 3,1,4,1 --max-tokens 12");
    assert_eq!((found.code, &found.out), (0, &wanted), "{}", found.err);
    assert!(found.err.contains("Fake GPU"), "{}", found.err);
    let logits = "logits fake.so --weights . --ids 3,1,4,1,5,9,2,6,5,3,5 -o out.safetensors";
    assert_eq!((on_gpu(&fake, "", logits).code, braid_run(&cpu, logits).code), (0, 0));
    let file = |fake: &Fake| std::fs::read(fake.path("out.safetensors")).unwrap();
    assert_eq!(file(&fake), file(&cpu));
    let found = on_gpu(&fake, "", "verify fake.so --weights . --golden out.safetensors --tolerance 0");
    assert_eq!(found.code, 0, "{}", found.err);
    let found = on_gpu(&fake, "", "run fake.so --weights . --ids 3,1,4,1 --max-tokens 5 --save-state a.state");
    assert_eq!(found.code, 0, "{}", found.err);
    let found = on_gpu(&fake, "", "run fake.so --weights . --load-state a.state --max-tokens 7");
    assert_eq!(found.out, wanted.split_inclusive(',').skip(5).collect::<String>(), "{}", found.err);
    let found = braid_run(&fake, "info fake.so --launches").out;
    assert!(found.contains("sm_90a") && found.contains("2 in one launch, 1 of them wait"), "{found}");
    assert!(found.contains("   1  head  3 wanted rows; a launch of its own from 5 rows on, waits\n"), "{found}");
}

#[test]
fn what_a_gpu_lacks_is_said() {
    let fake = Fake::on_gpu();
    let line = "run fake.so --weights . --ids 1";
    let says = |mood: &str, line: &str, message: &str| {
        let found = on_gpu(&fake, mood, line);
        assert_eq!(found.code, 1, "{mood}: {}", found.err);
        assert!(found.err.contains(message) && !found.err.contains("panicked"), "{mood}: {}", found.err);
    };
    says("none", line, "the NVIDIA driver finds no GPU\nhint: does `CUDA_VISIBLE_DEVICES` hide it?");
    says("old", line, "the NVIDIA driver is for CUDA 11.4; 12.0 is the oldest that works\nhint: update the NVIDIA driver");
    says(
        "sm_80",
        line,
        "the code is for sm_90a, but Fake GPU is sm_80\nhint: build it for this GPU, or for all later ones: `--target cuda:sm_80`",
    );
    says("small", &format!("{line} --context 100000"), "no memory on the GPU for the states of 1 sequences of 100000 positions");
    says("small", &format!("{line} --context 100000"), "400128 bytes are needed, 65536 of 131072 are free");
    let found = on_gpu(&fake, "refuse", line);
    assert!(found.code == 4 && found.err.contains("line 7: what is this?"), "{}", found.err);
    // Whether this machine has a driver is not known.
    let found = finished(command(&fake, line).env("LD_LIBRARY_PATH", ""));
    assert!(found.code == 1 && found.err.starts_with("error: ") && found.err.contains("\nhint: "), "{}", found.err);
}

#[test]
fn grids_that_do_not_fit_and_wrong_kernels() {
    let fake = Fake::on_gpu();
    let line = "run fake.so --weights . --ids 1,2,3";
    let with = |change: &dyn Fn(&mut braid_runtime::artifact::Device)| {
        let mut device = fake::device();
        change(&mut device);
        fake.write_gpu(&Manifest { device: Some(device), ..fake::manifest() });
        on_gpu(&fake, "", line)
    };
    let found = with(&|device| device.step.shared_bytes = 250_000);
    assert!(
        found.code == 1
            && found.err.contains("`braid_step` needs 250000 bytes of shared memory a block, but Fake GPU has 232448")
    );
    let found = with(&|device| device.prefill.shared_bytes = 210_000);
    assert!(found.code == 1 && found.err.contains("a block of `braid_prepare` (64 threads) does not fit"), "{}", found.err);
    // The played kernel complains.
    let found = with(&|device| device.steps[1].words[0] = 32);
    assert!(found.code == 4 && found.err.contains("bug in Braid: cannot run the model on the GPU"), "{}", found.err);
    assert_eq!(with(&|_| ()).code, 0);
}

/// The tokens of the fake's GGUF file: one for each character.
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz0123456789!?.,";

/// The fake's weights as a GGUF file with a tokenizer and a chat template.
fn gguf(fake: &Fake) {
    let mut file = writer::Writer::new("fake");
    file.letters(LETTERS);
    file.text(
        "tokenizer.chat_template",
        "{% for m in messages %}{{ m.content }}{{ '!' if m.role == 'user' else '.' }}{% endfor %}?",
    );
    let bytes = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    file.tensor("model.embed.weight", &[VOCAB, D], writer::F32, bytes(&fake.embed));
    file.tensor("model.head.weight", &[VOCAB, D], writer::F32, bytes(&fake.head));
    file.tensor("model.head.bias", &[2 * VOCAB], writer::F32, bytes(&fake.bias));
    std::fs::write(fake.path("model.gguf"), file.bytes()).unwrap();
}

/// What the fake answers to a text.
fn answer(fake: &Fake, text: &str, count: usize) -> String {
    let ids: Vec<i32> = text.chars().map(|c| LETTERS.find(c).unwrap() as i32).collect();
    fake.greedy(&ids, count).iter().map(|id| &LETTERS[*id as usize..][..1]).collect()
}

#[test]
fn a_gguf_file_has_weights_and_tokenizer() {
    let fake = Fake::new();
    gguf(&fake);
    let found = braid_run(&fake, "run fake.so --weights model.gguf --prompt hello -n 8");
    assert_eq!((found.code, found.out), (0, format!("hello{}\n", answer(&fake, "hello", 8))), "{}", found.err);
    let json = braid_run(&fake, "run fake.so --weights model.gguf --ids 3,1,4,1 -n 4 --json").out;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["text"], answer(&fake, "dbeb", 4));
    let named = braid_run(&fake, "run fake.so --weights . --tokenizer model.gguf --prompt hello -n 8");
    assert_eq!(named.out, format!("hello{}\n", answer(&fake, "hello", 8)));
}

#[test]
fn chat_answers_in_turns() {
    let fake = Fake::new();
    gguf(&fake);
    let one = braid_run(&fake, "run fake.so --weights model.gguf --chat --prompt hi -n 5");
    let first = answer(&fake, "hi!?", 5);
    assert_eq!((one.code, one.out), (0, format!("{first}\n")), "{}", one.err);
    let json = braid_run(&fake, "run fake.so --weights model.gguf --chat --prompt hi -n 5 --json");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json.out).unwrap()["text"], first);
    // A turn for each line; the second one begins with the whole first one.
    let mut command = Command::new(env!("CARGO_BIN_EXE_braid-run"));
    let line = "run fake.so --weights model.gguf --chat -n 5 --system be";
    command.args(line.split_whitespace()).current_dir(fake.folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = command.spawn().unwrap();
    running.stdin.take().unwrap().write_all(b"hi\n\nyou\n").unwrap();
    let out = String::from_utf8(running.wait_with_output().unwrap().stdout).unwrap();
    let first = answer(&fake, "be.hi!?", 5);
    let second = answer(&fake, &format!("be.hi!{first}.you!?"), 5);
    assert_eq!(out, format!("{first}\n{second}\n"));
    for (line, code, message) in [
        ("run fake.so --weights . --chat --prompt hi", 1, "no tokenizer beside the weights"),
        ("run fake.so --weights . --tokenizer model.gguf --chat --prompt hi", 1, "no chat template comes with it"),
        ("run fake.so --weights model.gguf --chat --prompt hi --context 16 -n 40", 1, "context overflow"),
        ("run fake.so --weights model.gguf --chat --ids 1", 2, "cannot be used with"),
    ] {
        let found = braid_run(&fake, line);
        assert_eq!(found.code, code, "{line}: {}", found.err);
        assert!(found.err.contains(message), "{line}: {}", found.err);
    }
}

#[test]
fn bench_measures_both() {
    let (cpu, gpu) = (Fake::new(), Fake::on_gpu());
    let found = braid_run(&cpu, "bench fake.so --weights random:1 --prompt 7 --tokens 3 --batch 2 --threads 1");
    assert_eq!(found.code, 0, "{}", found.err);
    for said in
        ["fake for cpu:any, on 1 threads", "2 x 7 tokens in ", "2 x 1 token behind 7 in ", "8.4 KiB a step, ", " GB/s (read): "]
    {
        assert!(found.out.contains(said), "{said}: {}", found.out);
    }
    let line = "bench fake.so --weights random:1 --prompt 7 --tokens 3 --context 20 --steps";
    let found = on_gpu(&gpu, "", line);
    assert_eq!(found.code, 0, "{}", found.err);
    // By the played driver's clock everything takes a millisecond.
    for said in [
        "cuda:sm_90a, on Fake GPU",
        "1 x 7 tokens in 1.000 ms, 7000 tokens/s",
        "1 x 1 token behind 20 in 1.000 ms, 1000.0 tokens/s; ",
        "    0    1000.00 µs        1 tasks  + sums",
        "    1    1000.00 µs        3 tasks  head",
        "    2000.00 µs of 2 steps in one launch",
    ] {
        assert!(found.out.contains(said), "{said}: {}", found.out);
    }
    let json: serde_json::Value = serde_json::from_str(&on_gpu(&gpu, "", &format!("{line} --json")).out).unwrap();
    assert_eq!((&json["steps"][1]["function"], &json["decode"]["context"]), (&"head".into(), &20.into()));
    assert_eq!(json["weights_bytes"], fake::manifest().token_weights_bytes);
    let found = braid_run(&cpu, "bench fake.so --weights random:1 --prompt 7 --context 5");
    assert!(found.code == 1 && found.err.contains("a context of 5 tokens after a prompt of 7"), "{}", found.err);
}

#[test]
fn verify_takes_a_part_of_the_largest_logit() {
    let fake = Fake::new();
    let ids = [3, 1, 4, 1, 5, 9, 2];
    let mut logits = fake.reference(&ids).concat();
    let peak = logits.iter().fold(0f32, |peak, logit| peak.max(logit.abs()));
    logits[100] += peak / 200.0;
    golden(&fake, &[ids, ids].concat(), &logits.repeat(2));
    let verify = |limit| braid_run(&fake, &format!("verify fake.so --weights . --golden golden.safetensors {limit}"));
    assert_eq!((verify("--relative 6e-3").code, verify("--relative 4e-3").code), (0, 1));
    assert_eq!(verify("--relative 1e-2 --tolerance 1").code, 2);
}
