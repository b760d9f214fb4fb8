//! Documents of x402 as JSON inside frames: bytes that were not read yet, with the type that they are to be read as.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::wire::{PaymentPayload, PaymentRequired, SettleResponse};

macro_rules! documents {
    ($($(#[$doc:meta])* $name:ident of $content:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub struct $name(Vec<u8>);

        impl $name {
            /// Reads the document.
            ///
            /// # Errors
            /// When the bytes are not such a document.
            pub fn read(&self) -> Result<$content, serde_json::Error> {
                serde_json::from_slice(&self.0)
            }

            /// The bytes as they travel.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl From<Vec<u8>> for $name {
            /// Takes bytes as they came, whatever they are.
            fn from(bytes: Vec<u8>) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // A payment is a bearer token, so its bytes are not printed.
                write!(f, concat!(stringify!($name), "({} bytes)"), self.0.len())
            }
        }
    )*};
}

documents! {
    /// The JSON of a [`PaymentPayload`].
    PaymentJson of PaymentPayload;
    /// The JSON of a [`PaymentRequired`].
    RequirementsJson of PaymentRequired;
    /// The JSON of a [`SettleResponse`].
    SettlementJson of SettleResponse;
}

/// JSON of a type whose maps have text as keys.
fn to_json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("documents of x402 can be written as JSON")
}

impl<P: Serialize, A: Serialize> From<&PaymentPayload<P, A>> for PaymentJson {
    fn from(payment: &PaymentPayload<P, A>) -> Self {
        Self(to_json(payment))
    }
}

impl From<&PaymentRequired> for RequirementsJson {
    fn from(required: &PaymentRequired) -> Self {
        Self(to_json(required))
    }
}

impl From<&SettleResponse> for SettlementJson {
    fn from(settled: &SettleResponse) -> Self {
        Self(to_json(settled))
    }
}

/// A settlement that may be missing, which travels as no bytes at all.
pub(crate) mod optional_settlement {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::SettlementJson;

    pub(crate) fn serialize<S: Serializer>(
        settlement: &Option<SettlementJson>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let bytes = settlement
            .as_ref()
            .map_or(&[][..], SettlementJson::as_bytes);
        bytes.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SettlementJson>, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        Ok((!bytes.is_empty()).then_some(SettlementJson(bytes)))
    }
}
