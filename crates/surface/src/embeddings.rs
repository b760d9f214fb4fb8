//! `/v1/embeddings`.

use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hearth_api::openai::TextInput;
use hearth_api::openai::embeddings::{
    Embedding, EmbeddingList, EmbeddingUsage, EmbeddingsRequest, EncodingFormat, Vector,
};

use super::answering::Asking;
use super::failure::{Failure, Form};
use super::names::Names;
use super::{At, json, replied, request};
use crate::answers::Input;

/// The most texts of one request.
const TEXTS_MAX: usize = 2_048;

/// The route.
pub(super) async fn embeddings(State(at): State<At>, request: Request) -> Response {
    replied(answer(at, request).await, Form::OpenAi)
}

async fn answer(at: At, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let asking = Asking::new(at, &parts.headers, &parts.extensions)?;
    let request: EmbeddingsRequest = request::read(body).await?;
    asking.check_model(&request.model)?;
    let inputs = texts(request.input, request.dimensions)?;
    let count = inputs.len();
    let answerer = &asking.at.surface.answerer;
    let embedded = answerer.embed(request.model.clone(), inputs).await;
    let embedded = embedded.map_err(|error| Failure::from_ask(error, &Names::EMBEDDINGS, None))?;
    debug_assert_eq!(embedded.vectors.len(), count, "one vector for each text");
    let format = request.encoding_format.unwrap_or_default();
    let vectors = embedded.vectors.into_iter().enumerate();
    let data = vectors.map(|(index, vector)| Embedding {
        object: "embedding".to_owned(),
        index,
        embedding: written(vector, format),
    });
    Ok(json(&EmbeddingList {
        object: "list".to_owned(),
        data: data.collect(),
        model: request.model,
        usage: EmbeddingUsage {
            prompt_tokens: embedded.tokens,
            total_tokens: embedded.tokens,
        },
    }))
}

fn texts(given: TextInput, dimensions: Option<u32>) -> Result<Vec<Input>, Failure> {
    if dimensions.is_some() {
        let message = "embeddings have the length that the model gives them; leave dimensions out";
        return Err(Failure::unsupported("dimensions", message));
    }
    inputs("input", given, false, TEXTS_MAX)
}

/// The texts of a body.
pub(super) fn read(json: &[u8]) -> Result<Vec<Input>, Failure> {
    let request: EmbeddingsRequest = request::parse(json)?;
    texts(request.input, request.dimensions)
}

fn written(vector: Vec<f32>, format: EncodingFormat) -> Vector {
    match format {
        EncodingFormat::Float => Vector::Floats(vector),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    }
}

/// The texts or ids of a request, each with something in it; `special` says whether names of control tokens
/// in a text mean these tokens.
pub(super) fn inputs(
    param: &str,
    given: TextInput,
    special: bool,
    most: usize,
) -> Result<Vec<Input>, Failure> {
    let text = |text| Input::Text { text, special };
    let inputs: Vec<Input> = match given {
        TextInput::Text(one) => vec![text(one)],
        TextInput::Texts(texts) => texts.into_iter().map(text).collect(),
        TextInput::Ids(ids) => vec![Input::Ids(ids)],
        TextInput::ManyIds(many) => many.into_iter().map(Input::Ids).collect(),
    };
    let is_empty = |input: &Input| match input {
        Input::Text { text, .. } => text.is_empty(),
        Input::Ids(ids) => ids.is_empty(),
        Input::Chat { messages, .. } => messages.is_empty(),
    };
    let fault = if inputs.is_empty() || inputs.iter().any(is_empty) {
        format!("{param} is empty, or has an empty text")
    } else if inputs.len() > most {
        format!("{param} may have at most {most} texts")
    } else {
        return Ok(inputs);
    };
    Err(Failure::invalid(param, fault))
}
