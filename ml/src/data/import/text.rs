//! Running text, plain or gzip. Any bytes are text: the models read bytes, not characters.

use super::unpack;
use crate::MlError;

/// The text of a file.
///
/// # Errors
/// If it is empty, or damaged gzip.
pub fn read(bytes: Vec<u8>) -> Result<Vec<u8>, MlError> {
    let text = unpack(bytes)?;
    if text.is_empty() {
        return Err(MlError::Data("the text is empty".into()));
    }
    Ok(text)
}
