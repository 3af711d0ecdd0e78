//! Writes GGUF files, byte by byte.

/// The type of single precision.
pub const F32: u32 = 0;
/// The type of bfloat16.
pub const BF16: u32 = 30;

/// What goes into a file.
#[derive(Clone, Default)]
pub struct Writer {
    pub pairs: Vec<(String, u32, Vec<u8>)>,
    pub tensors: Vec<(String, Vec<usize>, u32, Vec<u8>)>,
}

pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Writer {
    pub fn new(architecture: &str) -> Writer {
        let mut writer = Writer::default();
        writer.text("general.architecture", architecture);
        writer
    }

    pub fn text(&mut self, key: &str, value: &str) {
        self.pairs.push((key.into(), 8, text(value)));
    }

    pub fn int(&mut self, key: &str, value: u32) {
        self.pairs.push((key.into(), 4, value.to_le_bytes().into()));
    }

    pub fn float(&mut self, key: &str, value: f32) {
        self.pairs.push((key.into(), 6, value.to_le_bytes().into()));
    }

    pub fn truth(&mut self, key: &str, value: bool) {
        self.pairs.push((key.into(), 7, vec![value.into()]));
    }

    pub fn list(&mut self, key: &str, kind: u32, count: usize, values: Vec<u8>) {
        let head = [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes()].concat();
        self.pairs.push((key.into(), 9, [head, values].concat()));
    }

    pub fn texts(&mut self, key: &str, values: &[&str]) {
        self.list(key, 8, values.len(), values.iter().flat_map(|value| text(value)).collect());
    }

    pub fn tensor(&mut self, name: &str, shape: &[usize], kind: u32, bytes: Vec<u8>) {
        self.tensors.push((name.into(), shape.into(), kind, bytes));
    }

    /// A tokenizer with a token for each letter.
    pub fn letters(&mut self, letters: &str) {
        let tokens: Vec<String> = letters.chars().map(String::from).collect();
        let types = tokens.iter().flat_map(|_| 1i32.to_le_bytes()).collect();
        self.text("tokenizer.ggml.model", "gpt2");
        self.text("tokenizer.ggml.pre", "gpt-2");
        self.texts("tokenizer.ggml.tokens", &tokens.iter().map(String::as_str).collect::<Vec<_>>());
        self.list("tokenizer.ggml.token_type", 5, tokens.len(), types);
        self.texts("tokenizer.ggml.merges", &[]);
    }

    /// Matrices as BF16 if that is exact, all else as F32.
    pub fn numbers(&mut self, name: &str, shape: &[usize], numbers: &[f64]) {
        let exact = numbers.iter().all(|number| half::bf16::from_f64(*number).to_f64() == *number);
        let (kind, bytes) = match shape.len() {
            n if n == 1 || !exact => (F32, numbers.iter().flat_map(|number| (*number as f32).to_le_bytes()).collect()),
            _ => (BF16, numbers.iter().flat_map(|number| half::bf16::from_f64(*number).to_le_bytes()).collect()),
        };
        self.tensor(name, shape, kind, bytes);
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.pairs {
            file.extend([text(key), kind.to_le_bytes().into(), value.clone()].concat());
        }
        let mut data = Vec::new();
        for (name, shape, kind, bytes) in &self.tensors {
            file.extend(text(name));
            file.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|size| file.extend((*size as u64).to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        file.resize(file.len().next_multiple_of(32), 0);
        [file, data].concat()
    }
}
