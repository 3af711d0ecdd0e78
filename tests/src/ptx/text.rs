//! Text of instructions: operands, and the opcodes of what lanes do together.

use super::parse::{Space, Together};

/// What lanes do together, and how many registers come first that it writes.
pub fn together(parts: &[&str]) -> Option<(Together, usize)> {
    let has = |part: &str| parts.contains(&part);
    Some(match parts[0] {
        "shfl" if has("bfly") => (Together::ShuffleXor, 1),
        "shfl" if has("idx") => (Together::ShuffleIndex, 1),
        "vote" if has("any") => (Together::Any, 1),
        "ldmatrix" => (Together::LoadMatrices { turned: has("trans") }, 4),
        "mma" if has("tf32") => (Together::MultiplyTf32, 4),
        "mma" if has("s8") => (Together::MultiplyBytes, 4),
        "mma" => (Together::MultiplyBf16, 4),
        "atom" if has("add") && has("shared") => (Together::Add(Space::Shared), 1),
        "atom" if has("add") => (Together::Add(Space::Global), 1),
        "cp" if has("prefetch") => (Together::BulkPrefetch, 0),
        "cp" if has("bulk") => (Together::BulkCopy, 0),
        "cp" if has("commit_group") => (Together::CloseCopies, 0),
        "cp" if has("wait_group") => (Together::WaitCopies, 0),
        "cp" => (Together::Copy, 0),
        "mbarrier" if has("init") => (Together::BarrierInit, 0),
        "mbarrier" if has("expect_tx") => (Together::BarrierExpect, 1),
        "mbarrier" if has("try_wait") || has("test_wait") => (Together::BarrierWait, 1),
        _ => return None,
    })
}

/// Operands, those of a list in braces together.
pub fn operands(text: &str) -> Vec<Vec<&str>> {
    let (mut all, mut rest) = (Vec::new(), text.trim());
    while !rest.is_empty() {
        let (own, behind) = match rest.strip_prefix(['{', '(']) {
            Some(inner) => inner.split_once(['}', ')']).unwrap_or((inner, "")),
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        all.push(own.split(',').map(str::trim).collect());
        rest = behind.trim_start().trim_start_matches(',').trim();
    }
    all
}
