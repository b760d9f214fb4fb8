//! Answers sold over HTTP: an address beside the household's own, at which anyone asks who pays by x402.
//!
//! Prices are those that the configuration gives models for others, in every asset whose chain answers. Paid is by
//! channel only: a one-off payment costs the one who is paid a transaction, which is more than most answers bring.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use hearth_environment::Environment;
use hearth_payments::gate::Gate;
use hearth_payments::offer::AcceptedAsset;
use hearth_payments::till::Till;
use hearth_surface::{ForSale, PriceTable, Surface, sold};

use super::{Building, UpError};
use crate::home::SoldConfig;
use crate::http::{Listener, bind};
use crate::roles::provider::Provider;
use crate::terms;

/// What is sold, for people.
const DESCRIPTION: &str = "answers of open models, by the token";

/// A place where answers are sold, once it is served.
pub(super) struct Shop {
    pub(super) listener: Listener,
    pub(super) router: Router,
    /// Where it is.
    pub(super) url: String,
}

impl Building<'_> {
    /// Opens the place where answers are sold, at `sell_at` or where the configuration says; nothing, and a warning, where
    /// nobody could pay for them.
    pub(super) async fn shop(
        &mut self,
        sell_at: Option<SocketAddr>,
        till: Option<&Till>,
        provider: &Provider,
        surface: &Arc<Surface>,
    ) -> Result<Option<Shop>, UpError> {
        let configured = self.config.api.sold.clone();
        let Some(wanted) = sell_at.map(SoldConfig::at).or(configured) else {
            return Ok(None);
        };
        let Some(till) = till else {
            let warning = "Nothing is sold over HTTP: no chain answers on which it could be paid";
            self.warnings.push(warning.to_owned());
            return Ok(None);
        };
        let assets = self.accepted(till);
        let models = for_sale(provider, &assets);
        if models.is_empty() {
            self.warnings.push(
                "Nothing is sold over HTTP: no model has a price in an asset whose chain answers. `hearth models \
                 serve NAME --asset … --prompt … --output …` gives one"
                    .to_owned(),
            );
            return Ok(None);
        }
        let prices = PriceTable {
            models,
            requests_per_voucher: wanted.at_once,
            answers_at_once: self.config.engine.answers,
            open: provider.opened(),
        };
        let (listener, address) = bind(wanted.listen).await?;
        let environment: Arc<dyn Environment> = Arc::clone(&self.environment);
        let router = sold(surface, prices, |pricing| Gate {
            assets,
            pricing,
            desk: till.desk.clone(),
            cashier: till.cashier.clone(),
            replies: till.replies.clone(),
            base_url: wanted.base_url.as_ref().map(ToString::to_string),
            description: Some(DESCRIPTION.to_owned()),
            environment,
        });
        Ok(Some(Shop {
            listener,
            router,
            url: format!("http://{address}"),
        }))
    }

    /// The assets in which an answer can be paid now.
    fn accepted(&self, till: &Till) -> Vec<AcceptedAsset> {
        till.escrows
            .accepted(terms::accepted_by_channel(self.config, self.keys))
    }
}

/// The models that have a price in one of `assets`.
fn for_sale(provider: &Provider, assets: &[AcceptedAsset]) -> BTreeMap<String, ForSale> {
    let served = provider.served().into_iter();
    let priced = served.filter_map(|served| {
        let prices = served.prices.iter().filter(|price| {
            let taken = |asset: &AcceptedAsset| asset.asset == price.asset;
            assets.iter().any(taken)
        });
        let model = ForSale {
            prices: prices.copied().collect(),
            context_tokens: served.generator.description().context_tokens,
        };
        (!model.prices.is_empty()).then_some((served.name, model))
    });
    priced.collect()
}
