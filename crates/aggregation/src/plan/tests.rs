use super::*;

/// A Llama of `layers` layers without grouped queries; the head is tied.
fn llama(layers: usize, dimension: u32, hidden: u32, vocabulary: u32) -> Vec<ModelTensor> {
    let matrix = |rows, columns, role| ModelTensor {
        shape: TensorShape::Matrix { rows, columns },
        role,
    };
    let mut tensors = vec![matrix(vocabulary, dimension, TensorRole::Other)];
    for _ in 0..layers {
        tensors.extend([matrix(dimension, dimension, TensorRole::Hidden); 4]);
        tensors.extend([matrix(hidden, dimension, TensorRole::Hidden); 2]);
        tensors.push(matrix(dimension, hidden, TensorRole::Hidden));
        let values = dimension;
        tensors.extend(
            [ModelTensor {
                shape: TensorShape::Vector { values },
                role: TensorRole::Other,
            }; 2],
        );
    }
    tensors
}

/// Eight strangers who train 135 million parameters at home: 10 Mbit/s up, 100 down.
fn homes() -> PlanRequest {
    let tensors = llama(30, 576, 1_536, 49_152);
    let parameters = tensors.iter().map(|tensor| tensor.shape.values()).sum();
    PlanRequest {
        tensors,
        parameters,
        tokens_per_step: 4_096,
        devices: Devices {
            trainers: 8,
            tokens_per_s: 200.0,
            up_bits_per_s: 10e6,
            down_bits_per_s: 100e6,
            spread: Spread::Seeded,
            trust: Trust::Strangers,
        },
        settle_s: 0.0,
        rounds: 200,
        steps: None,
    }
}

fn small() -> PlanRequest {
    let tensors = llama(4, 96, 256, 512);
    let parameters = tensors.iter().map(|tensor| tensor.shape.values()).sum();
    let mut request = homes();
    request.tensors = tensors;
    request.parameters = parameters;
    request.devices.tokens_per_s = 20_000.0;
    request
}

#[test]
fn muon_is_chosen_where_its_iterations_are_cheap() {
    let mut request = homes();
    let slow = plan(&request).unwrap();
    assert_eq!(slow.method, Method::AdamW);
    assert!(matches!(slow.reasons[0], Reason::MuonTooSlow { share, .. } if share > 0.3));
    request.tokens_per_step = 16_384;
    let fast = plan(&request).unwrap();
    assert_eq!(fast.method, Method::Muon);
    let Reason::Muon { share, .. } = fast.reasons[0] else {
        panic!("{:?}", fast.reasons[0]);
    };
    // 3 d / tokens, less what embeddings take of a step without being trained by Muon.
    assert!((0.07..0.105).contains(&share), "{share}");
    for tensor in &mut request.tensors {
        tensor.role = TensorRole::Other;
    }
    let none = plan(&request).unwrap();
    assert_eq!(none.reasons[0], Reason::NoHiddenMatrices);
}

#[test]
fn a_round_is_the_shortest_whose_transfers_take_a_fifteenth() {
    for request in [homes(), small()] {
        let plan = plan(&request).unwrap();
        let busy_s = plan.upload_s.max(plan.download_s);
        assert!(plan.compute_s >= 15.0 * busy_s, "{plan:?}");
        let step_s = plan.compute_s / f64::from(plan.steps);
        assert!(
            plan.steps == 1 || plan.compute_s - step_s < 15.0 * busy_s,
            "{plan:?}"
        );
    }
}

#[test]
fn a_small_model_is_sent_in_eight_bits_and_a_large_one_as_its_largest_values() {
    let mut request = small();
    request.tokens_per_step = 16_384;
    assert_eq!(plan(&request).unwrap().compression, Compression::Dense8);
    let mut request = homes();
    request.devices.tokens_per_s = 20_000.0;
    let large = plan(&request).unwrap();
    assert_eq!(large.compression, Compression::TopK { k: 64 });
    assert!(large.steps > STEPS_GOAL);
    assert!(matches!(
        large.reasons[1],
        Reason::SmallestForm {
            short_run_rounds: None,
            ..
        }
    ));
}

#[test]
fn a_short_run_keeps_more_values() {
    let mut request = homes();
    request.devices.tokens_per_s = 10_000.0;
    request.rounds = SHORT_RUN_ROUNDS - 1;
    let short = plan(&request).unwrap();
    assert_eq!(short.compression, Compression::TopK { k: SHORT_RUN_K_MIN });
    request.rounds = SHORT_RUN_ROUNDS;
    assert_ne!(plan(&request).unwrap().compression, short.compression);
}

#[test]
fn fetching_and_handing_on_count_too() {
    let mut request = homes();
    request.devices.tokens_per_s = 2_000.0;
    request.devices.trainers = 200;
    let decider = |request: &PlanRequest| match plan(request).unwrap().reasons[2] {
        Reason::Steps { decider, .. } => decider,
        other => panic!("{other:?}"),
    };
    assert_eq!(decider(&request), Decider::Download);
    request.devices.trainers = 4;
    assert_eq!(decider(&request), Decider::Upload);
    let seeded = plan(&request).unwrap().upload_s;
    request.devices.spread = Spread::Swarm;
    let swarm = plan(&request).unwrap();
    assert!(
        (swarm.upload_s - 3.0 * seeded).abs() < 1e-9,
        "{}",
        swarm.upload_s
    );
    request.settle_s = 40.0;
    assert_eq!(decider(&request), Decider::Settling);
    request.devices.tokens_per_s = 0.1;
    request.settle_s = 0.0;
    assert_eq!(decider(&request), Decider::Nothing);
}

#[test]
fn what_travels_while_a_round_is_settled_is_compressed_less() {
    let mut request = small();
    request.devices.tokens_per_s = 100_000.0;
    request.devices.spread = Spread::Swarm;
    let strong = plan(&request).unwrap();
    assert!(matches!(strong.compression, Compression::TopK { .. }));
    request.settle_s = 5.0;
    let settled = plan(&request).unwrap();
    assert_eq!(settled.compression, Compression::Dense4);
    // Four times as long as it is settled.
    let step_s = settled.compute_s / f64::from(settled.steps);
    assert!(
        (20.0..20.0 + step_s).contains(&settled.compute_s),
        "{settled:?}"
    );
    // Steps so short that no number of them is enough.
    request.tokens_per_step = 32;
    assert_eq!(plan(&request).unwrap().steps, STEPS_MAX);
}

#[test]
fn steps_that_the_maker_chose_decide_how_much_is_sent() {
    let mut request = small();
    for (steps, compression) in [
        (1, Compression::TopK { k: 64 }),
        (1_000, Compression::Dense8),
    ] {
        request.steps = Some(steps);
        let chosen = plan(&request).unwrap();
        assert_eq!((chosen.steps, chosen.compression), (steps, compression));
    }
}

#[test]
fn the_outer_rate_is_half_the_strangers_or_all_the_trusted() {
    let rate = |trainers, trust, compression| {
        let devices = Devices {
            trainers,
            trust,
            ..homes().devices
        };
        choose_rate(compression, &devices).0
    };
    let sparse = Compression::TopK { k: 64 };
    assert_eq!(rate(8, Trust::Strangers, sparse), 4.0);
    assert_eq!(rate(8, Trust::Trusted, sparse), 8.0);
    assert_eq!(rate(1, Trust::Strangers, sparse), 1.0);
    assert_eq!(rate(8, Trust::Strangers, Compression::Dense8), 1.0);
}

#[test]
fn links_that_are_too_slow_are_refused_with_the_numbers() {
    let mut request = homes();
    request.devices.tokens_per_s = 1e6;
    let error = plan(&request).unwrap_err();
    let PlanError::Links { k: 64, steps, .. } = error else {
        panic!("{error:?}");
    };
    assert!(steps > STEPS_MAX.into());
    assert!(error.to_string().contains(&steps.to_string()));
}

#[test]
fn every_choice_is_explained_with_numbers() {
    let mut sentences = Vec::new();
    for request in [homes(), small()] {
        for rounds in [10, 200] {
            for tokens_per_step in [4_096, 65_536] {
                let mut request = request.clone();
                (request.rounds, request.tokens_per_step) = (rounds, tokens_per_step);
                let plan = plan(&request).unwrap();
                assert_eq!(plan.reasons.len(), 4);
                sentences.extend(plan.reasons.iter().map(Reason::to_string));
            }
        }
    }
    for sentence in sentences {
        println!("{sentence}");
        assert!(sentence.ends_with('.') && sentence.contains(|c: char| c.is_ascii_digit()));
    }
}

#[test]
fn a_request_that_makes_no_sense_is_refused() {
    let breaks: [fn(&mut PlanRequest); 10] = [
        |request| request.devices.trainers = 0,
        |request| request.devices.trainers = 5_000,
        |request| request.devices.tokens_per_s = f64::NAN,
        |request| request.devices.up_bits_per_s = 0.0,
        |request| request.devices.down_bits_per_s = f64::INFINITY,
        |request| request.tokens_per_step = 0,
        |request| request.parameters = 0,
        |request| request.rounds = 0,
        |request| request.steps = Some(0),
        |request| request.settle_s = -1.0,
    ];
    for change in breaks {
        let mut request = homes();
        change(&mut request);
        assert!(
            matches!(plan(&request), Err(PlanError::Request(_))),
            "{request:?}"
        );
    }
    let mut request = homes();
    request.tensors.clear();
    assert_eq!(
        plan(&request),
        Err(PlanError::Tensors(LayoutError::Tensors(0)))
    );
}
