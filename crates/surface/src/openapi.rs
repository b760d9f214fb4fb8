//! The surface in OpenAPI's form, made of the very types that are read and written.
//!
//! `docs/openapi.json` is this document; a test keeps both the same, and rewrites the file when
//! `HEARTH_WRITE_OPENAPI` is set.

use hearth_api::node::{HealthReply, ReceiptList};
use hearth_api::openai::chat::{ChatChunk, ChatCompletion, ChatRequest};
use hearth_api::openai::completions::{Completion, CompletionRequest};
use hearth_api::openai::embeddings::{EmbeddingList, EmbeddingsRequest};
use hearth_api::openai::models::{Model, ModelList};
use hearth_api::openai::responses::{self, ResponseEvent, ResponsesRequest};
use hearth_api::{anthropic, openai};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// The parts of the document while it is made.
struct Document {
    schemas: SchemaGenerator,
    paths: Map<String, Value>,
}

/// What one route takes and gives.
struct Route {
    path: &'static str,
    summary: &'static str,
    error: Value,
}

impl Document {
    fn schema<T: JsonSchema>(&mut self) -> Value {
        self.schemas.subschema_for::<T>().to_value()
    }

    fn get<T: JsonSchema>(&mut self, route: &Route) {
        let reply = json_content(self.schema::<T>());
        self.put(route, "get", None, &reply);
    }

    fn post<In: JsonSchema, Out: JsonSchema>(&mut self, route: &Route) {
        let request = self.schema::<In>();
        let reply = json_content(self.schema::<Out>());
        self.put(route, "post", Some(request), &reply);
    }

    /// A route whose reply may come in pieces.
    fn stream<In: JsonSchema, Out: JsonSchema, Event: JsonSchema>(&mut self, route: &Route) {
        let request = self.schema::<In>();
        let mut reply = json_content(self.schema::<Out>());
        reply["text/event-stream"] = json!({ "schema": self.schema::<Event>() });
        self.put(route, "post", Some(request), &reply);
    }

    fn put(&mut self, route: &Route, method: &str, request: Option<Value>, reply: &Value) {
        let mut operation = json!({
            "summary": route.summary,
            "responses": {
                "200": { "description": "As asked.", "content": reply },
                "default": {
                    "description": "An error; its message says what to do next.",
                    "content": json_content(route.error.clone()),
                },
            },
        });
        if route.path == "/health" || route.path == "/openapi.json" {
            operation["security"] = json!([]);
        }
        if let Some(request) = request {
            operation["requestBody"] = json!({
                "required": true,
                "content": json_content(request),
            });
        }
        if let Some((_, rest)) = route.path.split_once('{') {
            let name = rest.trim_end_matches('}');
            operation["parameters"] = json!([{
                "name": name, "in": "path", "required": true, "schema": { "type": "string" },
            }]);
        }
        let path = self.paths.entry(route.path).or_insert_with(|| json!({}));
        path[method] = operation;
    }
}

fn json_content(schema: Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

/// The document.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut document = Document {
        schemas: settings.into_generator(),
        paths: Map::new(),
    };
    node_paths(&mut document);
    openai_paths(&mut document);
    anthropic_paths(&mut document);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hearth",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The household's own address: models behind the APIs that programs \
                            already speak. Every reply of a model has the header hearth-answer-id; \
                            the request header hearth-tier (device, household, network) keeps a \
                            prompt nearer than the API key allows.",
            "license": { "name": "Apache-2.0 OR MIT" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }, { "key": [] }],
        "paths": document.paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "key": { "type": "apiKey", "in": "header", "name": "x-api-key" },
            },
            "schemas": document.schemas.take_definitions(true),
        },
    })
}

fn node_paths(document: &mut Document) {
    let error = document.schema::<openai::ErrorReply>();
    let route = |path, summary| Route {
        path,
        summary,
        error: error.clone(),
    };
    document.get::<HealthReply>(&route("/health", "That the node is there."));
    let summary = "This document.";
    document.get::<Map<String, Value>>(&route("/openapi.json", summary));
    let metrics = route("/metrics", "What was counted, for Prometheus.");
    let text = json!({ "text/plain": { "schema": { "type": "string" } } });
    document.put(&metrics, "get", None, &text);
    let summary = "What providers signed for an answer.";
    document.get::<ReceiptList>(&route("/v1/hearth/receipts/{id}", summary));
}

fn openai_paths(document: &mut Document) {
    let error = document.schema::<openai::ErrorReply>();
    let route = |path, summary| Route {
        path,
        summary,
        error: error.clone(),
    };
    document.get::<ModelList>(&route("/v1/models", "The models that can be asked."));
    document.get::<Model>(&route("/v1/models/{id}", "One model."));
    document.stream::<ChatRequest, ChatCompletion, ChatChunk<'_>>(&route(
        "/v1/chat/completions",
        "A conversation goes on.",
    ));
    document.stream::<CompletionRequest, Completion<'_>, Completion<'_>>(&route(
        "/v1/completions",
        "Text goes on as it is.",
    ));
    document.stream::<ResponsesRequest, responses::Response, ResponseEvent>(&route(
        "/v1/responses",
        "A conversation goes on; nothing is kept between requests.",
    ));
    let summary = "Embeddings of texts.";
    document.post::<EmbeddingsRequest, EmbeddingList>(&route("/v1/embeddings", summary));
}

fn anthropic_paths(document: &mut Document) {
    let error = document.schema::<anthropic::AnthropicErrorReply>();
    let route = |path, summary| Route {
        path,
        summary,
        error: error.clone(),
    };
    document.stream::<anthropic::MessagesRequest, anthropic::Message, anthropic::Event>(&route(
        "/v1/messages",
        "A conversation goes on, in Anthropic's form.",
    ));
    document.post::<anthropic::MessagesRequest, anthropic::TokenCount>(&route(
        "/v1/messages/count_tokens",
        "How many tokens a conversation has.",
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_checked_in_document_is_the_one_that_is_served() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        let made = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        if std::env::var_os("HEARTH_WRITE_OPENAPI").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == made,
            "docs/openapi.json is not what the node serves: run this test with \
             HEARTH_WRITE_OPENAPI=1 and commit the file"
        );
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        let document = document();
        let text = document.to_string();
        let references: Vec<&str> = text.split("\"$ref\":\"#").skip(1).collect();
        assert!(references.len() > 50, "{}", references.len());
        for reference in references {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }

    #[test]
    fn every_path_of_the_surface_is_told() {
        let document = document();
        for path in super::super::PATHS.iter().filter(|path| **path != "other") {
            assert!(document["paths"].get(path).is_some(), "{path}");
        }
    }
}
