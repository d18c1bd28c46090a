//! Folders as they are published: what must be in them, and where chat templates come from.

use std::fs;
use std::path::Path;

use rz_formats::{FormatError, ModelFolder, Safetensors};

use super::{check_message, tiny};

/// Opens a folder of one tensor and an empty `config.json`, after `change`.
fn folder(change: impl FnOnce(&Path)) -> Result<ModelFolder, FormatError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    fs::write(folder.path().join("model.safetensors"), tiny("t")).unwrap();
    change(folder.path());
    let result = ModelFolder::open(folder.path());
    if let Err(error) = &result {
        check_message(error, folder.path());
    }
    result
}

/// The same with one more file.
fn with(name: &str, content: &str) -> Result<ModelFolder, FormatError> {
    folder(|folder| fs::write(folder.join(name), content).unwrap())
}

#[test]
fn only_the_model_and_its_config_must_be_there() {
    let model = folder(|_| {}).unwrap();
    assert!(model.config().is_empty());
    assert!(model.generation_config().is_none());
    assert!(model.tokenizer_config().is_none());
    assert!(model.tokenizer_json().is_none());
    assert!(model.chat_template().is_none());
    assert_eq!(model.tensors().tensors().len(), 1);

    let error = folder(|folder| fs::remove_file(folder.join("config.json")).unwrap()).unwrap_err();
    assert!(
        matches!(&error, FormatError::MissingFile { expected: "config.json", found: None, .. }),
        "{error:?}"
    );
    let error = folder(|folder| fs::remove_file(folder.join("model.safetensors")).unwrap()).unwrap_err();
    assert!(
        matches!(&error, FormatError::MissingFile { expected, .. } if expected.contains("index.json")),
        "{error:?}"
    );
    let error = folder(|folder| {
        fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    });
    let error = error.unwrap_err();
    assert!(error.to_string().contains("convert them to safetensors"), "{error}");
}

#[test]
fn a_single_file_goes_before_an_index() {
    let model = with("model.safetensors.index.json", "{\"weight_map\":{\"other\":\"other\"}}").unwrap();
    assert!(model.tensors().tensor("t").is_some());
}

#[test]
fn what_is_no_folder() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = ModelFolder::open(file.path()).unwrap_err();
    check_message(&error, file.path());
    assert!(matches!(error, FormatError::NotAFolder { .. }), "{error:?}");
    let absent = file.path().join("absent");
    for error in [ModelFolder::open(&absent).unwrap_err(), Safetensors::open(&absent).unwrap_err()] {
        assert!(matches!(error, FormatError::Io { action: "open", .. }), "{error:?}");
    }
    // A folder where a file should be.
    for name in ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let error = folder(|folder| fs::create_dir(folder.join(name)).unwrap()).unwrap_err();
        assert!(
            matches!(&error, FormatError::NotAFile { file, found: "a folder" } if file.ends_with(name)),
            "{error:?}"
        );
    }
}

#[test]
fn files_that_are_wrong_are_named() {
    for name in ["config.json", "generation_config.json", "tokenizer_config.json", "chat_template.json"] {
        let error = with(name, "{\"a\":1,\n\"a\":2}").unwrap_err();
        assert!(
            matches!(&error, FormatError::DuplicateKey { place, key } if key == "a" && place.file.ends_with(name)),
            "{error:?}"
        );
        let error = with(name, "[]").unwrap_err();
        assert!(matches!(&error, FormatError::Json { place, .. } if place.file.ends_with(name)), "{error:?}");
    }
    let error = folder(|folder| {
        let config = fs::OpenOptions::new().write(true).open(folder.join("config.json")).unwrap();
        config.set_len((16 << 20) + 1).unwrap();
    });
    assert!(matches!(error, Err(FormatError::TooLarge { found: 16_777_217, limit: 16_777_216, .. })));
}

/// A pipe would be waited for.
#[cfg(unix)]
#[test]
fn a_socket_is_not_opened() {
    let error = folder(|folder| {
        let path = folder.join("generation_config.json");
        // The name of a socket has a limit of its own; the folder stays when the socket is gone.
        let _socket = std::os::unix::net::UnixListener::bind(path).unwrap();
    });
    assert!(matches!(error, Err(FormatError::NotAFile { .. })));
}

#[test]
fn templates_of_the_tokenizer_config() {
    let model = with("tokenizer_config.json", r#"{"chat_template":"text"}"#).unwrap();
    assert_eq!(model.chat_template(), Some("text"));
    let model = with("tokenizer_config.json", r#"{"chat_template":null}"#).unwrap();
    assert!(model.chat_templates().is_empty());
    let list = r#"{"chat_template":[{"name":"rag","template":"r"},{"name":"default","template":"d"}]}"#;
    let model = with("tokenizer_config.json", list).unwrap();
    assert_eq!(model.chat_template(), Some("d"));
    assert_eq!(model.chat_templates()["rag"], "r");
    let model = with("tokenizer_config.json", r#"{"chat_template":{"default":"d","rag":"r"}}"#).unwrap();
    assert_eq!((model.chat_template(), model.chat_templates().len()), (Some("d"), 2));
    // Several, and none for want of another.
    let model =
        with("tokenizer_config.json", r#"{"chat_template":[{"name":"rag","template":"r"}]}"#).unwrap();
    assert_eq!((model.chat_template(), model.chat_templates().len()), (None, 1));

    for bad in
        ["1", "[1]", "[{}]", r#"[{"name":"default"}]"#, r#"[{"name":1,"template":"t"}]"#, r#"{"default":1}"#]
    {
        let error = with("tokenizer_config.json", &format!(r#"{{"chat_template":{bad}}}"#)).unwrap_err();
        assert!(
            matches!(&error, FormatError::WrongType { key, .. } if key == "chat_template"),
            "{bad}: {error:?}"
        );
    }
    let twice = r#"{"chat_template":[{"name":"a","template":"1"},{"name":"a","template":"2"}]}"#;
    let error = with("tokenizer_config.json", twice).unwrap_err();
    assert!(matches!(&error, FormatError::DuplicateKey { key, .. } if key == "chat_template.a"), "{error:?}");
}

#[test]
fn templates_in_files_of_their_own_go_first() {
    let all = |folder: &Path| {
        fs::write(folder.join("tokenizer_config.json"), r#"{"chat_template":"config"}"#).unwrap();
        fs::write(folder.join("chat_template.json"), r#"{"chat_template":"json"}"#).unwrap();
    };
    let model = folder(all).unwrap();
    assert_eq!(model.chat_template(), Some("config"));
    let model = with("chat_template.json", r#"{"chat_template":"json"}"#).unwrap();
    assert_eq!(model.chat_template(), Some("json"));
    let model = folder(|folder| {
        all(folder);
        fs::write(folder.join("chat_template.jinja"), "jinja\n").unwrap();
    });
    assert_eq!(model.unwrap().chat_template(), Some("jinja\n"));
    let model = folder(|folder| {
        all(folder);
        fs::write(folder.join("chat_template.jinja"), "jinja").unwrap();
        let more = folder.join("additional_chat_templates");
        fs::create_dir(&more).unwrap();
        fs::write(more.join("tool_use.jinja"), "tools").unwrap();
        fs::write(more.join("notes.txt"), "not a template").unwrap();
    });
    let model = model.unwrap();
    assert_eq!(model.chat_template(), Some("jinja"));
    let templates: Vec<_> = model.chat_templates().iter().map(|(name, text)| (&**name, &**text)).collect();
    assert_eq!(templates, [("default", "jinja"), ("tool_use", "tools")]);
}

#[test]
fn templates_that_are_wrong() {
    let error = folder(|folder| fs::write(folder.join("chat_template.jinja"), b"{{ \xff }}").unwrap());
    assert!(matches!(error, Err(FormatError::Utf8 { place, .. }) if place.offset == Some(3)));
    let error = with("chat_template.jinja", &" ".repeat((1 << 20) + 1)).unwrap_err();
    assert!(matches!(&error, FormatError::TooLarge { limit: 1_048_576, .. }), "{error:?}");
    let error = folder(|folder| {
        let more = folder.join("additional_chat_templates");
        fs::create_dir(&more).unwrap();
        (0..65).for_each(|i| fs::write(more.join(format!("{i}.jinja")), "t").unwrap());
    });
    assert!(matches!(error, Err(FormatError::Count { found: 65, limit: 64, .. })));
}
