//! What a name of a model stands for.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use alloy_signer_local::PrivateKeySigner;
use hearth_environment::SystemEnvironment;
use hearth_protocol::answer::{BackendClass, KvType, Serving};
use tempfile::TempDir;

use super::*;
use crate::home::Home;
use crate::reader::Launcher;
use crate::roles::provider::ProviderParts;

const POPULAR: &str = "popular-model";

fn offer(device: u8, name: &str, weights: u8, now: Timestamp) -> Offer {
    Offer {
        device: DeviceId([device; 32]),
        household: Address::repeat_byte(device),
        session_key: Address::repeat_byte(device),
        withdraw_delay_s: 86_400,
        issued_at: now,
        expires_at: now.plus_ms(60_000),
        models: vec![OfferedModel {
            name: name.to_owned(),
            serving: Serving {
                adapter: None,
                backend: BackendClass::CpuAvx2,
                engine: "llama.cpp".to_owned(),
                flash_attention: false,
                kv_type: KvType::F16,
                micro_batch_tokens: 512,
                template: ContentHash([4; 32]),
                weights: ContentHash([weights; 32]),
            },
            weights_bytes: 1,
            head_bytes: 1,
            context_tokens: 2_048,
            audience: Audience::Everyone,
            prices: Vec::new(),
            slots: 2,
            free_slots: 2,
            output_tokens_per_s: 50,
            prompt_tokens_per_s: 1_000,
        }],
    }
}

/// A payer without a model of its own, whose household are the devices 100 and above.
fn payer(pinned: &[(&str, u8)], offers: &[(u8, &str, u8)]) -> (TempDir, Payer) {
    let folder = tempfile::tempdir().unwrap();
    let environment: Arc<dyn Environment> = Arc::new(SystemEnvironment);
    let session = PrivateKeySigner::from_bytes(&B256::repeat_byte(1)).unwrap();
    let pinned = pinned.iter();
    let pinned = pinned.map(|(name, weights)| ((*name).to_owned(), ContentHash([*weights; 32])));
    let payer = Payer::new(PayerParts {
        provider: Provider::new(ProviderParts {
            session,
            sales: None,
            is_household: Arc::new(|_| false),
            environment: Arc::clone(&environment),
        }),
        network: None,
        purse: None,
        readers: Readers::new(Vec::new(), Launcher::this_program(["reader"]).unwrap()),
        config: Home::open(&folder.path().join("home"))
            .unwrap()
            .config()
            .unwrap(),
        spending: Spending(BTreeMap::new()),
        pinned: pinned.collect(),
        is_household: Arc::new(|device| device.0[0] >= 100),
        heads_folder: folder.path().join("heads"),
        store: Store::open(&folder.path().join("store"), &SystemEnvironment).unwrap(),
        patience: Patience::default(),
        environment,
    });
    for (device, name, weights) in offers {
        let offer = offer(*device, name, *weights, payer.now());
        payer.market().observe(payer.now(), offer).unwrap();
    }
    (folder, payer)
}

#[test]
fn a_name_that_only_strangers_use_stands_for_nothing() {
    for offers in [
        &[(1, POPULAR, 5)][..],
        &[(1, POPULAR, 5), (2, POPULAR, 5), (3, "Popular-Model", 5)],
        &[(1, POPULAR, 5), (2, POPULAR, 6)],
    ] {
        let (_folder, payer) = payer(&[], offers);
        for name in [POPULAR, "POPULAR-MODEL"] {
            let refused = payer.weights_of(name).unwrap_err().to_string();
            assert!(refused.contains("[names]"), "{refused}");
            for (_, _, weights) in offers {
                let hash = ContentHash([*weights; 32]).to_string();
                assert!(refused.contains(&hash), "{refused}");
            }
        }
        assert!(!payer.models().contains_key(POPULAR));
        let hash = ContentHash([5; 32]);
        assert_eq!(payer.models()[&hash.to_string()].weights, hash.to_string());
        let found = payer.weights_of(&hash.to_string()).unwrap();
        assert_eq!(found, (hash.to_string(), hash));
    }
    let (_folder, payer) = payer(&[], &[]);
    assert_eq!(
        payer.weights_of(POPULAR),
        Err(AskError::NoModel(POPULAR.to_owned()))
    );
}

#[test]
fn a_stranger_does_not_move_a_name_that_is_pinned() {
    let offers = [(1, POPULAR, 5), (2, POPULAR, 6)];
    let (_folder, payer) = payer(&[(POPULAR, 6)], &offers);
    let pinned = ContentHash([6; 32]);
    assert_eq!(payer.weights_of("Popular-Model").unwrap().1, pinned);
    assert_eq!(payer.models()[POPULAR].weights, pinned.to_string());
    assert_eq!(payer.models()[POPULAR].providers, 1);
    assert!(
        payer
            .models()
            .contains_key(&ContentHash([5; 32]).to_string())
    );
}

#[test]
fn a_name_of_the_household_counts_whatever_strangers_offer() {
    let offers = [(1, POPULAR, 5), (100, POPULAR, 7), (2, POPULAR, 7)];
    let (_folder, one) = payer(&[], &offers);
    assert_eq!(one.weights_of(POPULAR).unwrap().1, ContentHash([7; 32]));
    let (_folder, two) = payer(&[], &[(100, POPULAR, 7), (101, POPULAR, 8)]);
    let refused = two.weights_of(POPULAR).unwrap_err().to_string();
    assert!(refused.contains("this household"), "{refused}");
}

#[test]
fn a_strangers_name_that_is_a_hash_is_that_hash() {
    let hash = ContentHash([9; 32]);
    let (_folder, payer) = payer(&[], &[(1, &hash.to_string(), 5)]);
    assert_eq!(payer.weights_of(&hash.to_string()).unwrap().1, hash);
}
