//! How values become frames, and the frames that every conversation begins with.

use serde::{Deserialize, Serialize};
use tokio_util::codec::LengthDelimitedCodec;

use crate::codec::MAX_VALUE;
use crate::reply::Reply;
use crate::request::Request;

/// The version of everything in this crate. Any change of a message's shape raises it; both sides refuse another.
pub const VERSION: u32 = 6;

/// The first word of a conversation, so that a stranger's bytes are told from an old client's.
pub const MAGIC: u32 = 0x5252_4654;

/// The largest frame, in bytes, without its four bytes of length. Longer answers are sent as several frames.
pub const MAX_FRAME: usize = MAX_VALUE;

/// The one framing of both sides: a big-endian u32 length, then as many bytes. A longer frame is refused when its
/// length is read, before anything is allocated.
pub fn framing() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(MAX_FRAME)
        .length_field_length(4)
        .new_codec()
}

/// What a client says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: u32,
    /// The client's [`VERSION`].
    pub version: u32,
    /// The client's program and its version, for the daemon's log; at most 64 bytes.
    pub program: String,
}

/// What the daemon says first. This enum's first variant never changes, so that any two versions can say no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    /// The conversation is refused, and closed after this frame.
    Refused {
        /// The daemon's [`VERSION`].
        version: u32,
        /// Why, and how to mend it.
        reason: String,
    },
    /// Ask.
    Accepted {
        /// The daemon's [`VERSION`].
        version: u32,
        /// The daemon's program and its version.
        program: String,
    },
    /// Too many clients; try again.
    Busy {
        /// Which limit was met.
        reason: String,
    },
}

/// Names one run of a request that changes something: 16 random bytes, chosen by the client. Asked again with the same token,
/// on any connection, the daemon does nothing a second time and gives the same answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token(pub [u8; 16]);

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({self})")
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Chosen by the client, unique among its requests under way.
    pub id: u64,
    /// For a request that changes something: so that it can be asked again when its answer was lost.
    pub token: Option<Token>,
    /// What it wants.
    pub request: Request,
}

/// One frame of the answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The request's id; 0 when the request could not even be read.
    pub id: u64,
    /// What the daemon says.
    pub reply: Reply,
}
