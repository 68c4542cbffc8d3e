//! Requests and answers as length-prefixed bytes, each side bounded before it is read.

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use std::io;

/// Largest request, bytes.
pub const MAX_REQUEST: u32 = 256 << 10;
/// Largest answer, bytes.
pub const MAX_RESPONSE: u32 = 9 << 20;

/// The codec; it has no state.
#[derive(Clone, Default)]
pub struct Bytes;

async fn read(io: &mut (impl AsyncRead + Unpin + Send), max: u32) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let length = u32::from_le_bytes(length);
    if length > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{length} bytes announced, at most {max} allowed"),
        ));
    }
    // grows with what arrives, not with what was announced
    let mut data = Vec::new();
    io.take(length.into()).read_to_end(&mut data).await?;
    if data.len() == length as usize { Ok(data) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

async fn write(io: &mut (impl AsyncWrite + Unpin + Send), data: &[u8], max: u32) -> io::Result<()> {
    let length = u32::try_from(data.len()).ok().filter(|l| *l <= max);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too large to send"))?;
    io.write_all(&length.to_le_bytes()).await?;
    io.write_all(data).await?;
    io.close().await
}

impl libp2p::request_response::Codec for Bytes {
    type Protocol = String;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &String, io: &mut T) -> io::Result<Vec<u8>> {
        read(io, MAX_REQUEST).await
    }
    async fn read_response<T: AsyncRead + Unpin + Send>(&mut self, _: &String, io: &mut T) -> io::Result<Vec<u8>> {
        read(io, MAX_RESPONSE).await
    }
    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &String,
        io: &mut T,
        data: Vec<u8>,
    ) -> io::Result<()> {
        write(io, &data, MAX_REQUEST).await
    }
    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &String,
        io: &mut T,
        data: Vec<u8>,
    ) -> io::Result<()> {
        write(io, &data, MAX_RESPONSE).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;

    #[test] // K3: what is announced is bounded before it is read, and cut short is no message
    fn lengths_are_checked_on_both_sides() {
        let framed = |announced: u32, sent: &[u8]| Cursor::new([&announced.to_le_bytes(), sent].concat());
        assert_eq!(block_on(read(&mut framed(3, b"abc"), 3)).unwrap(), b"abc");
        assert_eq!(block_on(read(&mut framed(4, b"abcd"), 3)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(
            block_on(read(&mut framed(u32::MAX, b""), MAX_REQUEST)).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(block_on(read(&mut framed(3, b"ab"), 3)).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(
            block_on(write(&mut Cursor::new(vec![]), b"abcd", 3)).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
