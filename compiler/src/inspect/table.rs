//! A report as text.

use super::cost::Cost;
use super::reach::Reach;
use super::report::{CONTEXTS, Layer, Report, Row};
use super::tree::{ELEMENT_BYTES, Memory};
use super::units::{bytes, count, positions};

const HEAD: [&str; 9] =
    ["layer", "block", "rows out", "parameters", "FLOPs a token", "state + cache", "prefill", "decode", "memory"];
/// Columns of numbers stand at the right.
const RIGHT: [bool; 9] = [false, false, false, true, true, true, false, false, false];

/// The whole report.
pub fn table(report: &Report) -> String {
    let mut lines = vec![HEAD.map(String::from)];
    lines.extend(report.rows.iter().map(|row| line(report, row)));
    let mut total = cells("total".into(), &report.root);
    total[1].clear();
    lines.push(total);
    format!("{}\n{}\n{}", head(report), ruled(&lines), contexts(report))
}

fn head(report: &Report) -> String {
    let part = &report.root.part;
    let mut text = format!("{}: {} parameters", report.model, count(part.params));
    if part.active < part.params {
        text += &format!(", {} of them for each token", count(part.active));
    }
    text += &format!("; {} in f32, {} in bf16\n", bytes(part.params * 4), bytes(part.params * 2));
    for (storage, paths, numbers) in &report.stored {
        let shown = paths.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let more = if paths.len() > 3 { format!(" and {} more", paths.len() - 3) } else { String::new() };
        text += &format!("stored as {}, as the text says: {} numbers of {shown}{more}\n", storage.name(), count(*numbers));
    }
    let ahead = match report.ahead {
        0 => String::new(),
        ahead => format!(", {ahead} of the model's own ahead of each text among them"),
    };
    text + &format!(
        "N: positions of the context{ahead}; {} = {}, the width of the rows between layers\n",
        report.width.name, report.width.size
    )
}

fn line(report: &Report, row: &Row) -> [String; 9] {
    let times = if row.times > 1 { format!("  ×{}", row.times) } else { String::new() };
    cells(format!("{}{}{times}", "  ".repeat(row.depth), row.name), report.layer(row))
}

fn cells(name: String, layer: &Layer) -> [String; 9] {
    let part = &layer.part;
    let block = if part.block == part.name || layer.iteration().is_some() { String::new() } else { part.block.clone() };
    let class = &layer.class;
    [
        name,
        block,
        layer.output.clone(),
        if part.params == 0 { String::new() } else { count(part.params) },
        flops(part.work()),
        memory(&part.memory),
        class.prefill.clone(),
        class.decode.clone(),
        class.memory.clone(),
    ]
}

/// `1.2 M + 4.1 K·N`.
pub fn flops(cost: &Cost) -> String {
    let keys = cost.keys.iter().map(|k| times(count(k.flops), k.reach));
    let fixed = (cost.fixed > 0).then(|| count(cost.fixed));
    fixed.into_iter().chain(keys).collect::<Vec<_>>().join(" + ")
}

/// `32 KiB + 1 KiB·min(N, 512)`.
pub fn memory(memory: &[Memory]) -> String {
    let mut sums: Vec<(Option<Reach>, u64)> = Vec::new();
    for one in memory {
        match sums.iter_mut().find(|(reach, _)| *reach == one.reach) {
            Some((_, sum)) => *sum += one.elements * ELEMENT_BYTES,
            None => sums.push((one.reach, one.elements * ELEMENT_BYTES)),
        }
    }
    sums.sort_by_key(|(reach, _)| reach.is_some());
    let text = |(reach, sum): (Option<Reach>, u64)| match reach {
        None => bytes(sum),
        Some(reach) => times(bytes(sum), reach),
    };
    sums.into_iter().map(text).collect::<Vec<_>>().join(" + ")
}

fn times(each: String, reach: Reach) -> String {
    match reach {
        Reach::Share(1.0) => format!("{each}·N"),
        Reach::Share(share) => format!("{each}·{share:.3}·N"),
        Reach::Bounded(most) => format!("{each}·min(N, {most})"),
    }
}

fn ruled(lines: &[[String; 9]]) -> String {
    let wide = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..9).map(wide).collect();
    let rule = "─".repeat(widths.iter().sum::<usize>() + 2 * 8);
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        let padded: Vec<String> = line.iter().enumerate().map(|(c, text)| pad(text, widths[c], RIGHT[c])).collect();
        if at == 1 || at + 1 == lines.len() {
            out += &format!("{rule}\n");
        }
        out += padded.join("  ").trim_end();
        out.push('\n');
    }
    out
}

fn pad(text: &str, width: usize, right: bool) -> String {
    let space = " ".repeat(width.saturating_sub(text.chars().count()));
    if right { space + text } else { text.to_string() + &space }
}

fn contexts(report: &Report) -> String {
    let (cost, encode) = (&report.root.part.cost, &report.root.part.encode);
    let kept = |n: u64| report.root.part.memory.iter().map(|m| m.bytes(n)).sum::<u64>();
    let rows: [(&str, Vec<String>); 4] = [
        ("context", CONTEXTS.iter().map(|n| positions(*n)).collect()),
        ("FLOPs of the next token", CONTEXTS.iter().map(|n| count(cost.at(*n))).collect()),
        ("FLOPs of the prefill", CONTEXTS.iter().map(|n| count(cost.total(*n) + encode.total(*n))).collect()),
        ("state + cache of a sequence", CONTEXTS.iter().map(|n| bytes(kept(*n))).collect()),
    ];
    let line = |(name, cells): &(&str, Vec<String>)| {
        let cells: Vec<String> = cells.iter().map(|c| pad(c, 9, true)).collect();
        format!("{}{}\n", pad(name, 28, false), cells.join("  "))
    };
    rows.iter().map(line).collect()
}
