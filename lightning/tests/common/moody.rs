//! A bitcoind with moods: passes calls on to the embedded chain, or answers like one that is not well.

use oda_lightning::RpcEndpoint;
use oda_lightning::rpc::{RpcClient, RpcError};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug, PartialEq)]
pub enum Mood {
    Well,
    /// Answers 401, whatever the password.
    Denies,
    /// Lacks so many blocks of those it has heard of.
    Behind(u64),
    /// In its initial block download.
    Downloads,
    /// Has deleted the blocks below.
    Pruned(u64),
    /// Claims another network.
    On(&'static str),
    /// A web server.
    Babbles,
}

pub struct Moody {
    pub endpoint: RpcEndpoint,
    mood: Arc<Mutex<Mood>>,
}

impl Moody {
    pub fn start(chain: RpcEndpoint) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = RpcEndpoint { addr: listener.local_addr().unwrap(), ..chain.clone() };
        let mood = Arc::new(Mutex::new(Mood::Well));
        let shared = mood.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (chain, mood) = (chain.clone(), shared.clone());
                std::thread::spawn(move || serve(stream, &RpcClient::new(chain), &mood));
            }
        });
        Self { endpoint, mood }
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }
}

/// A server on loopback that answers each HTTP path with a text, or 404.
pub fn explorer(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some((first, _, close)) = request(&mut reader) {
                    let path = first.split(' ').nth(1).unwrap_or("/");
                    let (status, text) = answer(path).map_or(("404 Not Found", "no".into()), |t| ("200 OK", t));
                    reply(&stream, status, &text);
                    if close {
                        return;
                    }
                }
            });
        }
    });
    addr
}

/// First line, body, and whether the caller wants the connection closed.
fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>, bool)> {
    let (mut first, mut length, mut close) = (String::new(), 0, false);
    reader.read_line(&mut first).ok().filter(|n| *n > 0)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        close |= line == "connection: close";
        if let Some(n) = line.strip_prefix("content-length:") {
            length = n.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((first, body, close))
}

fn reply(mut stream: &TcpStream, status: &str, body: &str) {
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(text.as_bytes());
}

fn serve(stream: TcpStream, chain: &RpcClient, mood: &Mutex<Mood>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some((_, body, close)) = request(&mut reader) {
        let mood = mood.lock().unwrap().clone();
        match mood {
            Mood::Denies => return reply(&stream, "401 Unauthorized", ""),
            Mood::Babbles => return reply(&stream, "200 OK", "<html>hello</html>"),
            _ => {}
        }
        let call: Value = serde_json::from_slice(&body).unwrap();
        let method = call["method"].as_str().unwrap();
        let answer = chain.call(method, call["params"].clone()).map(|answer| moody(&mood, method, answer));
        match answer {
            Ok(result) => {
                reply(&stream, "200 OK", &json!({"result": result, "error": null, "id": call["id"]}).to_string())
            }
            Err(RpcError::Refused { code, message, .. }) => {
                let error = json!({"result": null, "error": {"code": code, "message": message}, "id": call["id"]});
                reply(&stream, "500 Internal Server Error", &error.to_string());
            }
            Err(_) => return,
        }
        if close {
            return;
        }
    }
}

fn moody(mood: &Mood, method: &str, mut answer: Value) -> Value {
    if method != "getblockchaininfo" {
        return answer;
    }
    let blocks = answer["blocks"].as_u64().unwrap();
    match mood {
        Mood::Behind(missing) => answer["headers"] = json!(blocks + missing),
        Mood::Downloads => {
            answer["initialblockdownload"] = json!(true);
            answer["chain"] = json!("signet");
        }
        Mood::Pruned(height) => {
            answer["pruned"] = json!(true);
            answer["pruneheight"] = json!(height);
        }
        Mood::On(chain) => answer["chain"] = json!(chain),
        Mood::Well | Mood::Denies | Mood::Babbles => {}
    }
    answer
}
