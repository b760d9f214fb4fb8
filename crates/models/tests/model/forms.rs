//! Answers in a form that was asked for.

use hearth_calls::{ForcedTool, OutputPart, Tool, ToolCallStream, forced_call_grammar};
use hearth_models::asker::Asker;
use hearth_models::engine::{EndReason, SubmitError};
use hearth_models::grammar::{GrammarError, GrammarSource};
use hearth_models::prompt::PromptInput;
use serde_json::{Value, json};

use super::answers::{answer, engine, ids_of, job, text};

#[tokio::test]
#[ignore = "needs outside programs"]
async fn an_answer_follows_its_schema() {
    let engine = engine(|_| {});
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "legs": {"type": "integer", "minimum": 0, "maximum": 8},
            "kind": {"enum": ["bird", "fish"]},
        },
        "required": ["name", "legs", "kind"],
        "additionalProperties": false,
    });
    for seed in 0..3 {
        let mut job = job(&engine, "Describe an animal as JSON.", 120);
        job.noise_key.0[0] = seed;
        job.grammar = Some(GrammarSource::JsonSchema(schema.to_string()));
        let (ids, reason) = answer(&engine, job).await;
        let text = text(&engine, &ids);
        assert!(
            matches!(reason, EndReason::Grammar | EndReason::EndOfText),
            "{reason:?} {text}"
        );
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("seed {seed}: {text}"));
        assert!(
            ["bird", "fish"].contains(&value["kind"].as_str().unwrap()),
            "{text}"
        );
        assert!(value["legs"].as_u64().unwrap() <= 8, "{text}");
    }
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn an_answer_goes_on_in_the_middle_of_its_form() {
    let engine = engine(|_| {});
    let schema =
        json!({"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3});
    let mut job = job(&engine, "Three numbers.", 60);
    let begun = ids_of(&engine, "[1,", false);
    job.output_position_first = begun.len() as u32;
    job.ids.extend(&begun);
    job.grammar = Some(GrammarSource::JsonSchema(schema.to_string()));
    let (ids, _) = answer(&engine, job.clone()).await;
    let text = format!("[1,{}", text(&engine, &ids));
    let numbers: Vec<i64> = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    assert_eq!(numbers.len(), 3);
    let other = ids_of(&engine, "{\"a", false);
    job.ids.truncate(job.ids.len() - begun.len());
    job.output_position_first = other.len() as u32;
    job.ids.extend(other);
    let refused = engine.submit(job).await.unwrap_err();
    assert!(
        matches!(refused, SubmitError::Grammar(GrammarError::Answered)),
        "{refused:?}"
    );
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn a_forced_call_is_a_call() {
    let engine = engine(|_| {});
    let tool = |name: &str, parameters: Value| Tool {
        name: name.to_owned(),
        description: None,
        parameters,
    };
    let city = json!({"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}},
                      "required": ["city"], "additionalProperties": false,
                      "$defs": {"City": {"enum": ["Paris", "Rome"]}}});
    let tools = [
        tool("weather", city),
        tool("time", json!({"type": "object", "properties": {}})),
    ];
    for (forced, allowed) in [
        (ForcedTool::Named("weather"), &["weather"][..]),
        (ForcedTool::Any, &["weather", "time"]),
    ] {
        let mut job = job(&engine, "How is the weather in Paris?", 120);
        job.grammar = forced_call_grammar(&tools, forced, false).map(GrammarSource::Lark);
        assert!(job.grammar.is_some());
        let (ids, reason) = answer(&engine, job).await;
        let said = text(&engine, &ids);
        assert!(
            matches!(reason, EndReason::Grammar | EndReason::EndOfText),
            "{reason:?} {said}"
        );
        let mut stream = ToolCallStream::default();
        let mut parts = stream.push(&said);
        parts.extend(stream.finish());
        let [OutputPart::Call(call)] = &parts[..] else {
            panic!("{said}: {parts:?}");
        };
        assert!(allowed.contains(&&*call.name), "{said}");
        if call.name == "weather" {
            let city = call.arguments["city"].as_str().unwrap();
            assert!(["Paris", "Rome"].contains(&city), "{said}");
        }
    }
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn a_model_that_wants_line_feeds_still_ends_its_json() {
    let engine = engine(|_| {});
    let line_feed = PromptInput::Text {
        text: "\n".to_owned(),
        special: false,
    };
    let asker = Asker::Household { name: 1 };
    let line_feed = engine.prompts().ids(asker, line_feed, 0).await.unwrap()[0];
    let schema = json!({
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}},
        "required": ["a", "b"],
        "additionalProperties": false,
    });
    let tool = Tool {
        name: "look".to_owned(),
        description: None,
        parameters: schema.clone(),
    };
    let sources = [
        GrammarSource::JsonSchema(schema.to_string()),
        GrammarSource::Lark(forced_call_grammar(&[tool], ForcedTool::Any, false).unwrap()),
    ];
    for source in sources {
        let mut job = job(&engine, "Answer as JSON.", 400);
        job.rule.logit_bias_millionths = vec![(line_feed, 100_000_000)];
        job.rule.temperature_millionths = 0;
        job.grammar = Some(source);
        let (ids, reason) = answer(&engine, job).await;
        let said = text(&engine, &ids);
        assert_ne!(reason, EndReason::Length, "{said}");
        assert!(said.contains("\"b\""), "{said}");
    }
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn hostile_grammars_are_refused_or_bounded() {
    let engine = engine(|_| {});
    let deep_schema = format!("{}1{}", "{\"items\":".repeat(60), "}".repeat(60));
    for source in [
        GrammarSource::Lark("start: start start | \"a\"".into()),
        GrammarSource::Lark(format!("start: /{}/", "(a|b)*".repeat(2_000))),
        GrammarSource::Lark("start: /((((a{1,1000}){1,1000}){1,1000}){1,1000})/".into()),
        GrammarSource::Lark("start: a\na: b b b b b b b b\nb: c c c c c c c c\nc: \"x\"?".into()),
        GrammarSource::Lark("start: start".into()),
        GrammarSource::Lark(format!("start: {}", "!".repeat(60_000))),
        GrammarSource::Lark(format!("start: {}\"a\"", "~".repeat(60_000))),
        GrammarSource::JsonSchema("{\"$ref\": \"#\"}".into()),
        GrammarSource::JsonSchema("{\"$ref\": \"file:///etc/passwd\"}".into()),
        GrammarSource::JsonSchema(deep_schema),
        GrammarSource::JsonSchema(
            "{\"type\": \"string\", \"pattern\": \"(a*)*b{1000000}\"}".into(),
        ),
        GrammarSource::JsonSchema("{\"type\": \"array\", \"minItems\": 1000000000}".into()),
        GrammarSource::JsonSchema("{\"type\": \"string\", \"minLength\": 4000000000}".into()),
        GrammarSource::JsonSchema("{\"multipleOf\": 1e-300, \"type\": \"number\"}".into()),
        GrammarSource::JsonSchema("not JSON".into()),
    ] {
        let shown = format!("{source:?}").chars().take(80).collect::<String>();
        let mut job = job(&engine, "Hello", 8);
        job.grammar = Some(source);
        match engine.submit(job).await {
            Ok(generation) => drop(super::answers::collect(generation).await),
            Err(SubmitError::Grammar(_)) => {}
            Err(other) => panic!("{shown}: {other}"),
        }
    }
    let (ids, _) = answer(&engine, job(&engine, "Hello", 5)).await;
    assert!(!ids.is_empty());
}

/// What a bias pushes, and JSON has no bound for.
#[tokio::test]
#[ignore = "needs outside programs"]
async fn an_answer_that_a_bias_pushes_ends_and_is_json() {
    let engine = engine(|_| {});
    let numbers = json!({"type": "array", "items": {"type": "number"}});
    let words =
        json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]});
    let object = json!({"type": "object"});
    for (schema, pushed) in [
        (&numbers, "\n"),
        (&words, " "),
        (&object, "{\""),
        (&json!({}), "["),
    ] {
        let mut job = job(&engine, "Answer in JSON.", 1_900);
        let mut ids = ids_of(&engine, pushed, false);
        ids.sort_unstable();
        ids.dedup();
        job.rule.logit_bias_millionths = ids.iter().map(|id| (*id, 100_000_000)).collect();
        job.grammar = Some(GrammarSource::JsonSchema(schema.to_string()));
        let (ids, reason) = answer(&engine, job).await;
        let text = text(&engine, &ids);
        println!(
            "{pushed:?}: {} tokens, {} bytes, {reason:?}",
            ids.len(),
            text.len()
        );
        assert!(
            matches!(reason, EndReason::Grammar | EndReason::EndOfText),
            "{pushed:?}: {reason:?} {text}"
        );
        assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
    }
}
