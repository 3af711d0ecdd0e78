//! Tokenizers and chat templates from metadata.

use super::Writer;
use braid_runtime::chat::{Message, Template};
use braid_runtime::tokenizer::Tokenizer;

/// The file's path, in a folder that lives as long.
fn written(writer: &Writer) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, writer.bytes()).unwrap();
    (folder, path)
}

fn opened(writer: &Writer) -> Result<Tokenizer, String> {
    Tokenizer::open(&written(writer).1).map_err(|error| error.to_string())
}

/// Byte tokens by their characters, some merges, and a token of control.
fn bytes(pre: &str) -> Writer {
    let mut writer = Writer::new("test");
    let tokens = ["<|end|>", "h", "e", "l", "o", "Ġ", "1", "2", "he", "ll", "hell", "hello", "Ġhe", "12", "Ġ1", "!", "Ċ"];
    writer.text("tokenizer.ggml.model", "gpt2");
    writer.text("tokenizer.ggml.pre", pre);
    writer.texts("tokenizer.ggml.tokens", &tokens);
    let types = (0..tokens.len()).flat_map(|id| if id == 0 { 3i32 } else { 1 }.to_le_bytes()).collect();
    writer.list("tokenizer.ggml.token_type", 5, tokens.len(), types);
    writer.texts("tokenizer.ggml.merges", &["h e", "l l", "he ll", "hell o", "Ġ he", "1 2", "Ġ 1"]);
    writer.int("tokenizer.ggml.eos_token_id", 0);
    writer.int("tokenizer.ggml.bos_token_id", 0);
    writer
}

#[test]
fn merges_of_bytes() {
    let tokenizer = opened(&bytes("gpt-2")).unwrap();
    assert_eq!(tokenizer.encode("hello hello 12<|end|>\n!", true).unwrap(), [11, 5, 11, 5, 13, 0, 16, 15]);
    assert_eq!(tokenizer.decode(&[11, 5, 11, 5, 13, 0, 16, 15]).unwrap(), "hello hello 12\n!");
    // Digits stand alone.
    assert_eq!(opened(&bytes("smollm")).unwrap().encode("12 12", true).unwrap(), [6, 7, 5, 6, 7]);
    // A text begins with its token where it says so, or where its kind does.
    let mut begins = bytes("gpt-2");
    begins.truth("tokenizer.ggml.add_bos_token", true);
    assert_eq!(opened(&begins).unwrap().encode("he", true).unwrap(), [0, 8]);
    assert_eq!(opened(&begins).unwrap().encode("he", false).unwrap(), [8]);
    assert_eq!(opened(&bytes("llama-bpe")).unwrap().encode("he", true).unwrap(), [0, 8]);
}

#[test]
fn merges_of_pieces_by_score() {
    let mut writer = Writer::new("test");
    let tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "<0xA9>", "▁", "a", "b", "ab", "▁a", "▁ab", "ba"];
    let types = [2i32, 3, 3, 6, 6, 6, 1, 1, 1, 1, 1, 1, 1];
    let scores = [0f32, 0.0, 0.0, 0.0, 0.0, 0.0, -9.0, -7.0, -8.0, -2.0, -1.0, -3.0, -4.0];
    writer.text("tokenizer.ggml.model", "llama");
    writer.texts("tokenizer.ggml.tokens", &tokens);
    writer.list("tokenizer.ggml.token_type", 5, 13, types.iter().flat_map(|kind| kind.to_le_bytes()).collect());
    writer.list("tokenizer.ggml.scores", 6, 13, scores.iter().flat_map(|score| score.to_le_bytes()).collect());
    writer.int("tokenizer.ggml.bos_token_id", 1);
    writer.int("tokenizer.ggml.unknown_token_id", 0);
    let tokenizer = opened(&writer).unwrap();
    // `▁a` has the highest score, so `▁ab` cannot come from `▁` and `ab`, but from `▁a` and `b`.
    assert_eq!(tokenizer.encode("ab ba", true).unwrap(), [1, 11, 6, 12]);
    assert_eq!(tokenizer.decode(&[1, 11, 6, 12]).unwrap(), "ab ba");
    // What has no token is spelled in bytes.
    assert_eq!(tokenizer.encode("é\n", false).unwrap(), [6, 4, 5, 3]);
    assert_eq!(tokenizer.decode(&[6, 4, 5, 3]).unwrap(), "é\n");
    writer.truth("tokenizer.ggml.add_space_prefix", false);
    assert_eq!(opened(&writer).unwrap().encode("ab", true).unwrap(), [1, 9]);
}

#[test]
fn what_is_not_known_is_said() {
    assert!(opened(&Writer::new("test")).err().unwrap().contains("it describes no tokenizer"));
    assert!(opened(&bytes("unheard")).err().unwrap().contains("cuts texts as `unheard` does, which is not known"));
    let mut other = bytes("gpt-2");
    other.pairs[1].2 = super::text("t5");
    assert!(opened(&other).err().unwrap().contains("of the kind `t5`, which is not known"));
    let mut broken = bytes("gpt-2");
    broken.pairs.retain(|(key, ..)| key != "tokenizer.ggml.merges");
    assert!(opened(&broken).err().unwrap().contains("`tokenizer.ggml.merges` is not a list of texts"));
    broken.texts("tokenizer.ggml.merges", &["h e", "quark"]);
    assert!(opened(&broken).err().unwrap().contains("`quark` is not a merge"));
}

const TEMPLATE: &str = "{% for m in messages %}\n  {% if m['role'] == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}\n[{{ \
                        m['role'].upper() }}] {{ m['content'].strip() }}{{ eos_token }}\n{% endfor %}\n{% if add_generation_prompt %}[ANSWER]{% endif %}";

fn turns(turns: &[(&'static str, &str)]) -> Vec<Message> {
    turns.iter().map(|(role, content)| Message { role, content: content.to_string() }).collect()
}

#[test]
fn chat_templates() {
    let mut writer = bytes("gpt-2");
    writer.text("tokenizer.chat_template", TEMPLATE);
    let (folder, path) = written(&writer);
    let template = Template::find(&path).unwrap();
    let wanted = "[SYSTEM] be kind<|end|>\n[USER] hello<|end|>\n[ANSWER]";
    let messages = turns(&[("system", "be kind"), ("user", " hello ")]);
    assert_eq!(template.render(&messages).unwrap(), wanted);
    let late = template.render(&turns(&[("user", "a"), ("system", "b")])).unwrap_err().to_string();
    assert!(late.contains("its chat template") && late.contains("late"), "{late}");
    // The same beside a checkpoint of files.
    let config =
        serde_json::json!({"eos_token": {"content": "<|end|>"}, "chat_template": [{"name": "default", "template": TEMPLATE}]});
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    assert_eq!(Template::find(folder.path()).unwrap().render(&messages).unwrap(), wanted);
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages[0].content }}{{ bos_token }}").unwrap();
    assert_eq!(Template::find(folder.path()).unwrap().render(&messages).unwrap(), "be kind");
    let empty = tempfile::tempdir().unwrap();
    assert!(Template::find(empty.path()).err().unwrap().to_string().contains("no chat template comes with it"));
    std::fs::write(empty.path().join("chat_template.jinja"), "{% for %}").unwrap();
    assert!(Template::find(empty.path()).unwrap().render(&[]).unwrap_err().to_string().contains("its chat template"));
}
