//! Questions to any contract by its generated types: one, or many of a kind in one round trip.

use alloy_primitives::{Address, Bytes};
use alloy_sol_types::SolCall;
use serde_json::json;

use super::read::decode_return;
use super::{BlockAt, ChainClient, ChainError, MAX_BATCH_CALLS, TxRequest, decode};

impl ChainClient {
    /// What a contract answers to `call` without changing anything.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] if it refuses, [`ChainError::Malformed`] if it has no such function; otherwise see
    /// [`ChainError`].
    pub async fn view<C: SolCall>(
        &self,
        to: Address,
        call: &C,
        at: BlockAt,
    ) -> Result<C::Return, ChainError> {
        let answer = self.call(to, call.abi_encode().into(), at).await?;
        decode_return::<C>(&answer)
    }

    /// What one contract answers to several calls of a kind, in their order, in one round trip per
    /// [`MAX_BATCH_CALLS`].
    ///
    /// # Errors
    /// As [`ChainClient::view`], for the first call that fails.
    pub async fn views<C: SolCall>(
        &self,
        to: Address,
        calls: &[C],
        at: BlockAt,
    ) -> Result<Vec<C::Return>, ChainError> {
        const METHOD: &str = "eth_call";
        let mut answers = Vec::with_capacity(calls.len());
        for part in calls.chunks(MAX_BATCH_CALLS) {
            let asked = part.iter().map(|call| {
                let request = TxRequest {
                    to: Some(to),
                    data: call.abi_encode().into(),
                    ..TxRequest::default()
                };
                (METHOD, json!([request.param(), at.param()]))
            });
            let asked: Vec<_> = asked.collect();
            for answer in self.batch(&asked).await? {
                let returned: Bytes = decode(METHOD, &answer?)?;
                answers.push(decode_return::<C>(&returned)?);
            }
        }
        Ok(answers)
    }
}
