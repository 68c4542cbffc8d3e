//! Pages: a list that grows for ever cannot be one answer.
//!
//! Every list takes `limit` and `after`, the name of the last item the caller has. An offset would skip or repeat
//! items whenever the list changes between two calls; a name does not. A page ends early when it becomes long in
//! bytes, so only an empty page is the last.

use super::errors::{DAMAGED, error};
use jsonrpsee::core::RpcResult;
use serde::Serialize;

/// Most items of one answer.
pub const MAX_PAGE: u32 = 500;
/// Length of a page at which it ends, bytes of JSON.
pub const MAX_PAGE_BYTES: usize = 2 << 20;

/// How many items a caller wants and may have.
pub(super) fn limit(asked: Option<u32>) -> usize {
    asked.unwrap_or(MAX_PAGE).min(MAX_PAGE) as usize
}

/// The first items, as many as asked for and as fit.
pub(super) fn page<T: Serialize>(asked: Option<u32>, items: impl Iterator<Item = RpcResult<T>>) -> RpcResult<Vec<T>> {
    let (mut out, mut bytes) = (Vec::new(), Count(0));
    for item in items.take(limit(asked)) {
        let item = item?;
        serde_json::to_writer(&mut bytes, &item).map_err(|e| error(DAMAGED, e.to_string()))?;
        if bytes.0 > MAX_PAGE_BYTES && !out.is_empty() {
            break;
        }
        out.push(item);
    }
    Ok(out)
}

/// Counts what is written to it.
struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(data.len());
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_bounded_in_items_and_in_bytes_and_never_empty_while_there_is_more() {
        let small = || (0..2_000u32).map(Ok);
        assert_eq!(page(Some(3), small()).unwrap(), [0, 1, 2]);
        assert_eq!(page(None, small()).unwrap().len(), MAX_PAGE as usize);
        assert_eq!(page(Some(u32::MAX), small()).unwrap().len(), MAX_PAGE as usize);
        let large = || (0..9).map(|_| Ok("x".repeat(MAX_PAGE_BYTES / 3)));
        assert_eq!(page(None, large()).unwrap().len(), 2);
        let huge = (0..9).map(|_| Ok("x".repeat(2 * MAX_PAGE_BYTES)));
        assert_eq!(page(None, huge).unwrap().len(), 1);
    }
}
