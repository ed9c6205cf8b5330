//! How long the daemon takes for its smallest question, on an open connection: `rr-rtt SOCKET ROUNDS` prints the
//! nanoseconds of each round trip, one a line. Nothing is encoded, decoded or allocated while the clock runs.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Instant;

use harness::client::Client;
use proto::codec::{decode, encode};
use proto::frame::{Answer, Ask};
use proto::reply::Reply;
use proto::request::Request;

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(socket), Some(Ok(rounds))) = (args.next(), args.next().map(|words| words.parse::<u32>()))
    else {
        return Err(io::Error::other("usage: rr-rtt SOCKET ROUNDS"));
    };
    let mut client = Client::connect(Path::new(&socket));
    let mut out = io::BufWriter::new(io::stdout().lock());

    // The first round, at leisure, tells how long an answer is: all its frames with their lengths.
    client.call(Request::Version)?;
    let ask = encode(&Ask {
        id: 7,
        token: None,
        request: Request::Version,
    })
    .map_err(io::Error::other)?;
    let mut frame = u32::try_from(ask.len())
        .map_err(io::Error::other)?
        .to_be_bytes()
        .to_vec();
    frame.extend_from_slice(&ask);
    client.stream.write_all(&frame)?;
    let mut length = 0;
    loop {
        let body = client.receive()?;
        length += 4 + body.len();
        let answer: Answer = decode(&body).map_err(io::Error::other)?;
        if matches!(answer.reply, Reply::End | Reply::Failed(_)) {
            break;
        }
    }

    let mut answer = vec![0; length];
    for _ in 0..rounds {
        let asked = Instant::now();
        client.stream.write_all(&frame)?;
        client.stream.read_exact(&mut answer)?;
        writeln!(out, "{}", asked.elapsed().as_nanos())?;
    }
    out.flush()
}
