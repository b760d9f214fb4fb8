use super::*;

/// Every cause of an engine, and what it must become. The match makes a new variant fail to compile here.
fn submit_cases() -> Vec<(SubmitError, Option<Field>, RefusalCode)> {
    let covered = |error: &SubmitError| match error {
        SubmitError::Busy { .. }
        | SubmitError::TooLong { .. }
        | SubmitError::Empty
        | SubmitError::UnknownToken(_)
        | SubmitError::Figure(_)
        | SubmitError::Bias(_)
        | SubmitError::Grammar(_)
        | SubmitError::Stopped => (),
    };
    let mut cases = vec![
        (
            SubmitError::Busy {
                retry_after_ms: 7_001,
            },
            None,
            RefusalCode::Busy,
        ),
        (
            SubmitError::TooLong {
                tokens: 3_000,
                tokens_max: 2_047,
            },
            None,
            RefusalCode::TooLong,
        ),
        (
            SubmitError::Empty,
            Some(Field::Prompt),
            RefusalCode::BadRequest,
        ),
        (
            SubmitError::UnknownToken(9),
            Some(Field::Prompt),
            RefusalCode::BadRequest,
        ),
        (
            SubmitError::Figure(Figure::Rule),
            Some(Field::Sampling),
            RefusalCode::BadRequest,
        ),
        (
            SubmitError::Bias(UnknownBias { id: 9, tokens: 9 }),
            Some(Field::Sampling),
            RefusalCode::BadRequest,
        ),
        (
            SubmitError::Figure(Figure::OutputTokens),
            Some(Field::OutputTokens),
            RefusalCode::BadRequest,
        ),
        (
            SubmitError::Figure(Figure::Logprobs),
            Some(Field::Logprobs),
            RefusalCode::BadRequest,
        ),
        (
            SubmitError::Figure(Figure::Position),
            Some(Field::Prompt),
            RefusalCode::BadRequest,
        ),
        (SubmitError::Stopped, None, RefusalCode::Failed),
    ];
    cases.extend(grammar_cases());
    cases.iter().for_each(|(error, ..)| covered(error));
    cases
}

/// The same for each cause of a grammar.
fn grammar_cases() -> Vec<(SubmitError, Option<Field>, RefusalCode)> {
    let refused = GrammarError::Refused("not: unsupported".to_owned());
    vec![
        (
            SubmitError::Grammar(GrammarError::TooLong),
            Some(Field::Grammar),
            RefusalCode::BadGrammar,
        ),
        (
            SubmitError::Grammar(GrammarError::TooDeep),
            Some(Field::Grammar),
            RefusalCode::BadGrammar,
        ),
        (
            SubmitError::Grammar(refused),
            Some(Field::Grammar),
            RefusalCode::BadGrammar,
        ),
        (
            SubmitError::Grammar(GrammarError::TooSlow),
            Some(Field::Grammar),
            RefusalCode::BadGrammar,
        ),
        (
            SubmitError::Grammar(GrammarError::TooMuch),
            Some(Field::Grammar),
            RefusalCode::BadGrammar,
        ),
        (
            SubmitError::Grammar(GrammarError::Answered),
            None,
            RefusalCode::BadGrammar,
        ),
        (
            SubmitError::Grammar(GrammarError::Unavailable),
            None,
            RefusalCode::Failed,
        ),
    ]
}

#[test]
fn a_fault_of_a_question_is_never_told_as_load_on_this_device() {
    for (error, field, _) in submit_cases() {
        let (told, verdict) = of_submit(&error);
        match field {
            Some(expected) => {
                assert_eq!(verdict, Verdict::Faulty, "{error}");
                let AskError::Senseless { field, reason } = told else {
                    panic!("{error} became {told:?}");
                };
                assert_eq!(field, expected, "{error}");
                assert!(!reason.is_empty());
            }
            None => {
                assert_eq!(verdict, Verdict::Elsewhere, "{error}");
                let is_busy = matches!(told, AskError::Busy { .. });
                assert_eq!(
                    is_busy,
                    matches!(error, SubmitError::Busy { .. }),
                    "{told:?}"
                );
            }
        }
    }
    let (busy, _) = of_submit(&SubmitError::Busy {
        retry_after_ms: 7_001,
    });
    assert_eq!(busy, AskError::Busy { retry_after_s: 8 });
    let (long, _) = of_submit(&SubmitError::TooLong {
        tokens: 3_000,
        tokens_max: 2_047,
    });
    let expected = AskError::TooLong {
        prompt_tokens: 3_000,
        context_tokens: 2_048,
    };
    assert_eq!(long, expected);
}

#[test]
fn a_refusal_over_the_network_keeps_kind_field_reason_and_time() {
    for (error, field, code) in submit_cases() {
        let refusal = to_refusal(&error);
        assert_eq!(refusal.code, code, "{error}");
        if let Some(field) = field {
            assert_eq!(refusal.field.map(Field::from), Some(field), "{error}");
        }
        assert_eq!(
            refusal.retry_after_ms.is_some(),
            matches!(
                error,
                SubmitError::Busy { .. } | SubmitError::Grammar(GrammarError::Unavailable)
            ),
            "{error}"
        );
        if let SubmitError::Grammar(grammar) = &error {
            assert_eq!(
                refusal.message,
                grammar.to_string(),
                "the reason, not only the kind"
            );
        }
    }
    for error in [
        RequestError::Empty,
        RequestError::PromptTooLong,
        RequestError::OutputLength,
        RequestError::Answered,
        RequestError::Sampling,
        RequestError::Grammar,
        RequestError::Logprobs,
    ] {
        assert_eq!(Refusal::from(error).field, Some(error.field()));
    }
    let evil = GrammarError::Refused("\n\u{1b}[2J".repeat(400));
    let refusal = to_refusal(&SubmitError::Grammar(evil));
    assert!(!refusal.message.chars().any(char::is_control));
    assert!(refusal.message.len() <= hearth_protocol::answer::frame::REFUSAL_BYTES_MAX);
}

#[test]
fn a_provider_that_finds_fault_with_a_sound_question_is_not_believed() {
    let refusal = |code| Refusal {
        code,
        field: Some(RequestField::Grammar),
        retry_after_ms: Some(2_500),
        message: "the grammar cannot be compiled".to_owned(),
    };
    for code in [
        RefusalCode::ModelNotServed,
        RefusalCode::SpecDiffers,
        RefusalCode::TooLong,
        RefusalCode::BadRequest,
        RefusalCode::BadGrammar,
        RefusalCode::Busy,
        RefusalCode::NotNow,
        RefusalCode::PaymentRefused,
        RefusalCode::Failed,
    ] {
        let told = of_refusal(&refusal(code));
        match code {
            RefusalCode::Busy => assert_eq!(told, AskError::Busy { retry_after_s: 3 }),
            _ => assert!(
                matches!(&told, AskError::NoProvider(why) if why.contains("cannot be compiled")),
                "{code:?} became {told:?}"
            ),
        }
    }
}

fn prompt(error: PromptError) -> ReadError {
    ReadError::Prompt(error.into())
}

#[test]
fn what_a_prompt_cannot_be_read_for_is_told_of_prompt_or_model() {
    let field = |error: ReadError| match of_read(&error) {
        AskError::Senseless { field, .. } => Some(field),
        _ => None,
    };
    let template = |error: TemplateError| field(prompt(error.into()));
    assert_eq!(template(TemplateError::Missing), Some(Field::Model));
    assert_eq!(template(TemplateError::TooLong), Some(Field::Model));
    assert_eq!(
        template(TemplateError::Unreadable(String::new())),
        Some(Field::Model)
    );
    assert_eq!(
        template(TemplateError::Refused("roles".to_owned())),
        Some(Field::Prompt)
    );
    assert_eq!(template(TemplateError::OutOfFuel), Some(Field::Prompt));
    assert_eq!(
        template(TemplateError::Failed(String::new())),
        Some(Field::Prompt)
    );
    assert_eq!(
        field(prompt(PromptError::UnknownToken(7))),
        Some(Field::Prompt)
    );
    for heavy in [PromptReadError::TooSlow, PromptReadError::TooMuch] {
        assert_eq!(field(ReadError::Prompt(heavy)), Some(Field::Prompt));
    }
    let busy = of_read(&ReadError::Prompt(PromptReadError::Busy));
    assert!(matches!(busy, AskError::Busy { .. }), "{busy}");
    for long in [
        prompt(TemplateError::PromptTooLong.into()),
        prompt(EncodeError::TooLong.into()),
    ] {
        assert!(
            matches!(of_read(&long), AskError::TextTooLong { .. }),
            "{long}"
        );
    }
    for missing in [ReadError::Missing, ReadError::File("no".to_owned())] {
        assert!(
            matches!(of_read(&missing), AskError::NoProvider(_)),
            "{missing}"
        );
    }
}

#[test]
fn a_text_without_an_embedding_says_why() {
    let long = EmbedError::TooLong {
        tokens: 3_000,
        tokens_max: 2_048,
    };
    let expected = AskError::TooLong {
        prompt_tokens: 3_000,
        context_tokens: 2_048,
    };
    assert_eq!(of_embed(&long), expected);
    let busy = EmbedError::Busy {
        retry_after_ms: 1_500,
    };
    assert_eq!(of_embed(&busy), AskError::Busy { retry_after_s: 2 });
    for fault in [EmbedError::Empty, EmbedError::UnknownToken(3)] {
        let told = of_embed(&fault);
        let is_prompt = matches!(
            told,
            AskError::Senseless {
                field: Field::Prompt,
                ..
            }
        );
        assert!(is_prompt, "{fault} became {told:?}");
    }
    let failed = of_embed(&EmbedError::Failed("no memory".to_owned()));
    assert_eq!(failed, AskError::Failed("no memory".to_owned()));
    assert!(matches!(
        of_embed(&EmbedError::Stopped),
        AskError::NoProvider(_)
    ));
}

#[test]
fn of_several_causes_the_one_is_told_that_can_be_acted_on() {
    let busy = |retry_after_s| AskError::Busy { retry_after_s };
    let lost = AskError::NoProvider("gone".to_owned());
    let dear = AskError::Budget("too dear".to_owned());
    let told = |causes: &[&AskError]| {
        let causes = causes.iter().map(|cause| (*cause).clone());
        causes
            .fold(None, |known, new| Some(worthier(known, new)))
            .unwrap()
    };
    assert_eq!(told(&[&busy(9), &lost]), busy(9));
    assert_eq!(told(&[&busy(9), &dear, &busy(4)]), busy(4), "the soonest");
    assert_eq!(told(&[&lost, &dear]), dear);
    let fault = senseless(Field::Grammar, &"bad");
    assert_eq!(told(&[&busy(9), &fault, &lost]), fault);
}
