//! Slots: listed, saved, restored and erased.

use rz_server::Config;
use serde_json::{Value, json};

use crate::fake::{Script, Server, TEMPLATE, server_with};

fn saving() -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.slot_folder = Some(folder.path().to_owned());
    (server_with(TEMPLATE, Script::Say(vec!["Hello", " there"]), config), folder)
}

async fn states(server: &Server) -> Vec<(bool, u64)> {
    let slots = server.get("/slots").await.json();
    let state = |slot: &Value| (slot["is_processing"].as_bool().unwrap(), slot["n_past"].as_u64().unwrap());
    slots.as_array().unwrap().iter().map(state).collect()
}

#[tokio::test]
async fn a_slot_is_saved_restored_and_erased() {
    let (server, folder) = saving();
    assert_eq!(server.get("/slots").await.json(), json!([]), "nothing is loaded");
    let answer = server.ask("/completion", json!({ "prompt": "Hi", "id_slot": 2 })).await;
    assert_eq!(answer["id_slot"], 2);
    let text = server.model.jobs.lock().unwrap()[0].prompt.len() as u64 + 2;
    assert_eq!(states(&server).await, [(false, 0), (false, 0), (false, text), (false, 0)]);

    let saved = server.ask("/slots/2?action=save", json!({ "filename": "hi.bin" })).await;
    let size = std::fs::metadata(folder.path().join("hi.bin")).unwrap().len();
    assert_eq!(
        (&saved["id_slot"], &saved["filename"], &saved["n_saved"], &saved["n_written"]),
        (&json!(2), &json!("hi.bin"), &json!(text), &json!(size))
    );
    assert!(saved["timings"]["save_ms"].is_number());
    let restored =
        server.ask("/slots/0?action=restore", json!({ "filename": "hi.bin", "model": "tiny" })).await;
    assert_eq!((&restored["n_restored"], &restored["n_read"]), (&json!(text), &json!(size)));
    assert!(restored["timings"]["restore_ms"].is_number());
    assert_eq!(states(&server).await[0].1, text);
    // Without a body, as llama.cpp has it.
    let erased = server.post_text("/slots/2?action=erase", "").await;
    assert_eq!((erased.status.as_u16(), erased.json()), (200, json!({ "id_slot": 2, "n_erased": text })));
    assert_eq!(states(&server).await.iter().map(|state| state.1).collect::<Vec<_>>(), [text, 0, 0, 0]);
    let empty = server.post("/slots/2?action=save", &json!({ "filename": "empty" })).await;
    assert_eq!(empty.status, 409, "{}", empty.text);
    assert!(!folder.path().join("empty").exists());
}

#[tokio::test]
async fn what_cannot_be_done_with_a_slot_says_why() {
    let (server, folder) = saving();
    server.ask("/completion", json!({ "prompt": "Hi", "id_slot": 0 })).await;
    std::fs::write(folder.path().join("damaged"), "x").unwrap();
    let name = |name: &str| json!({ "filename": name });
    let long = "x".repeat(200);
    for (path, body, status, param) in [
        ("/slots/0?action=save", name("../outside"), 400, "filename"),
        ("/slots/0?action=save", name("/tmp/outside"), 400, "filename"),
        ("/slots/0?action=save", name("..\\outside"), 400, "filename"),
        ("/slots/0?action=save", name("a/b"), 400, "filename"),
        ("/slots/0?action=save", name(".."), 400, "filename"),
        ("/slots/0?action=save", name(".hidden"), 400, "filename"),
        ("/slots/0?action=save", name("half.part"), 400, "filename"),
        ("/slots/0?action=save", name("nul\0"), 400, "filename"),
        ("/slots/0?action=save", name(&long), 400, "filename"),
        ("/slots/0?action=save", name(""), 400, "filename"),
        ("/slots/0?action=save", json!({ "filename": 3 }), 400, "filename"),
        ("/slots/0?action=save", json!({}), 400, "filename"),
        ("/slots/0?action=restore", name("../../etc/passwd"), 400, "filename"),
        ("/slots/0?action=save", json!({ "filename": "a", "more": 1 }), 400, "more"),
        ("/slots/0?action=copy", name("a"), 400, "action"),
        ("/slots/0", name("a"), 400, "action"),
        ("/slots/4?action=save", name("a"), 400, "id"),
        ("/slots/-1?action=save", name("a"), 400, "id"),
        ("/slots/..%2f0?action=save", name("a"), 400, "id"),
        ("/slots/99999999999999999999?action=save", name("a"), 400, "id"),
        ("/completion", json!({ "prompt": "Hi", "id_slot": 4 }), 400, "id_slot"),
        ("/completion", json!({ "prompt": "Hi", "id_slot": -2 }), 400, "id_slot"),
        ("/slots/0?action=restore", name("damaged"), 409, ""),
        ("/slots/0?action=restore", name("none"), 404, ""),
        ("/slots/0?action=save&model=nobody", name("a"), 404, "model"),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text);
        let error = answer.json()["error"].clone();
        assert!(error["message"].is_string());
        if !param.is_empty() {
            assert_eq!(error["param"], param, "{path} {body}: {error}");
        }
    }
    let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["damaged"]);

    let closed = crate::fake::server(&["x"]);
    let answer = closed.post("/slots/0?action=save", &name("a")).await;
    assert_eq!(answer.status, 501);
    assert!(answer.text.contains("--slot-save-path"), "{}", answer.text);
}

#[tokio::test]
async fn slots_are_busy_while_their_requests_are() {
    let server = server_with(TEMPLATE, Script::Hang(vec!["Hel"]), Config::default());
    let body = json!({ "prompt": "Hi", "id_slot": 1, "stream": true });
    let response = server.stream("/completion", &body).await;
    let busy = async || states(&server).await.iter().map(|state| state.0).collect::<Vec<_>>();
    assert_eq!(busy().await, [false, true, false, false]);
    drop(response);
    crate::chat::until(|| server.app.busy() == 0).await;
    assert_eq!(busy().await, [false; 4]);
    assert!(states(&server).await[1].1 > 0, "what was computed is known");
}
