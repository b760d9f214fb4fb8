//! What participants of a run send each other (spec: runs, sections 10 and 11).

use hearth_net::{
    RUN_MESSAGE_BYTES_MAX, RunMessage, decode_run_message, encode_run_message, run_message_length,
};

/// Messages between participants, without their length: what is read is written in one form, and a signature holds for
/// nothing that a fuzzer makes up.
pub fn notices(input: &[u8]) -> bool {
    if let Some(length) = input.first_chunk()
        && let Ok(bytes) = run_message_length(*length)
    {
        assert!((1..=RUN_MESSAGE_BYTES_MAX).contains(&bytes), "{bytes}");
    }
    let Ok(message) = decode_run_message(input) else {
        return false;
    };
    let written = encode_run_message(&message).expect("what was read is within its bounds");
    let (length, body) = written.split_first_chunk().expect("a length");
    assert_eq!(run_message_length(*length), Ok(body.len()));
    assert_eq!(decode_run_message(body).as_ref(), Ok(&message));
    // Whatever was signed, checking it is safe.
    match &message {
        RunMessage::Notice(notice) => {
            let _ = (notice.id(), notice.is_signed());
        }
        RunMessage::Place(place) => {
            let _ = place.is_signed();
        }
        RunMessage::Topics(_) | RunMessage::Have { .. } | RunMessage::Want { .. } => {}
    }
    true
}
