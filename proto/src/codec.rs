//! The only file that calls bincode (unmaintained: RUSTSEC-2025-0141), so that another codec is a change of this
//! file alone. The control socket, the keeper's wire and the stored state all use these two functions.

use serde::{Serialize, de::DeserializeOwned};

/// The largest encoded value that [`decode`] accepts and [`encode`] makes, in bytes.
pub const MAX_VALUE: usize = 1024 * 1024;

/// Why bytes could not become a value, or a value bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodecError {
    /// The value does not fit into [`MAX_VALUE`] bytes.
    TooLarge {
        /// The encoded size in bytes.
        bytes: usize,
    },
    /// The bytes are no value of the expected type.
    Malformed {
        /// The codec's own words.
        cause: String,
    },
    /// A whole value was read and bytes were left: another version wrote this, or somebody tampers.
    Trailing {
        /// How many bytes were left.
        bytes: usize,
    },
}

impl std::fmt::Display for CodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge { bytes } => {
                write!(
                    f,
                    "the message has {bytes} bytes, more than the {MAX_VALUE} allowed"
                )
            }
            Self::Malformed { cause } => write!(f, "the message cannot be decoded: {cause}"),
            Self::Trailing { bytes } => {
                write!(f, "the message has {bytes} bytes too many after its end")
            }
        }
    }
}

impl std::error::Error for CodecError {}

/// Encodes `value`. Fails only when it is larger than [`MAX_VALUE`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(value, bincode::config::standard())
        .map_err(|e| CodecError::Malformed { cause: e.to_string() })?;
    if bytes.len() > MAX_VALUE {
        return Err(CodecError::TooLarge { bytes: bytes.len() });
    }
    Ok(bytes)
}

/// Decodes one `T` that fills `bytes` exactly.
///
/// The limit stops a short message that claims to hold a huge list before anything is allocated for it. Bytes
/// left over are an error, since the codec alone would accept them and read a newer request as an older one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MAX_VALUE {
        return Err(CodecError::TooLarge { bytes: bytes.len() });
    }
    let config = bincode::config::standard().with_limit::<MAX_VALUE>();
    let (value, used) = bincode::serde::decode_from_slice(bytes, config)
        .map_err(|e| CodecError::Malformed { cause: e.to_string() })?;
    if used != bytes.len() {
        return Err(CodecError::Trailing {
            bytes: bytes.len() - used,
        });
    }
    Ok(value)
}
