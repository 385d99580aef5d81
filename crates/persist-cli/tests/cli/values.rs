use std::thread::sleep;
use std::time::Duration;

use persist_core::{Array, Checksum, Value};

use crate::desk::Desk;

#[test]
fn what_was_put_is_got() {
    let desk = Desk::bare();
    desk.file("doc.json", "{\"a\": [1, 2.50]}\n");
    let array = Array::from_vec(vec![2, 3], vec![1.5_f32, f32::NAN, 3.0, 4.0, 5.0, -0.0]).unwrap();
    desk.file("grid.npy", array.to_npy());
    desk.file("photo.jpg", b"\x00\xff\x1b[31m");
    for (key, file, kind) in
        [("doc", "doc.json", "json"), ("g/grid", "grid.npy", "array"), ("p", "photo.jpg", "bytes")]
    {
        let put = desk.ok(&format!("put main:{key} {file}"));
        assert!(put.err.contains(&format!("as {kind}")), "{}", put.err);
        assert_eq!(put.out, b"");
        assert_eq!(desk.ok(&format!("get main:{key}")).out, desk.read(file));
        desk.ok(&format!("get main:{key} copy"));
        assert_eq!(desk.read("copy"), desk.read(file));
        assert_eq!(desk.ok(&format!("--json stat main:{key}")).object()["metadata"]["kind"], kind);
    }
}

#[test]
fn the_empty_and_null_are_values() {
    let desk = Desk::new();
    assert_eq!(desk.feed("put main:empty", b"").code, 0);
    assert_eq!(desk.feed("put main:null --as json -", b"null").code, 0);
    assert_eq!(desk.ok("get main:empty").out, b"");
    assert_eq!(desk.ok("get main:null").out, b"null");
    desk.say("get main:absent").fails(3, "there is nothing at main:absent");
    desk.say("get main:absent --meta").fails(3, "there is nothing");
    desk.say("get main:absent --range 0..1").fails(3, "there is nothing");
}

#[test]
fn the_kind_is_what_was_said_or_what_the_extension_tells() {
    let desk = Desk::new();
    desk.file("bad.json", "{");
    desk.file("bad.npy", "no array");
    desk.say("put main:k bad.json").fails(1, "store it as it is with --as bytes");
    desk.say("put main:k bad.npy").fails(1, "begin like an .npy file");
    desk.say("put main:k bad.npy --as json").fails(1, "not JSON");
    desk.ok("put main:k bad.json --as bytes");
    assert_eq!(desk.ok("get main:k").out, b"{");
    desk.feed("put main:k --as json", b"[1,").fails(1, "not JSON");
    // Neither the key nor the content decides.
    assert_eq!(desk.feed("put main:x.json", b"{").code, 0);
    assert_eq!(desk.ok("--json put main:k --value [1] --as json").object()["metadata"]["kind"], "json");
    assert_eq!(desk.ok("--json put main:k --value [1]").object()["metadata"]["kind"], "bytes");
    desk.say("put main:k none.txt").fails(3, "cannot read none.txt");
    desk.say("put main:k data").fails(2, "is a folder");
    desk.say("put main:k other:k").fails(2, "cp");
}

#[test]
fn json_answers_hold_values_exactly() {
    let desk = Desk::new();
    desk.file("big.json", "{\n  \"n\": 123456789012345678901234567890,\n  \"t\": \"a b\"\n}\n");
    desk.ok("put main:big big.json");
    let answer = desk.ok("--json get main:big");
    assert!(
        answer.text().contains(r#""value":{"n":123456789012345678901234567890,"t":"a b"}"#),
        "{}",
        answer.text()
    );
    assert_eq!(answer.object()["key"], "big");

    assert_eq!(desk.feed("put main:raw", b"\x00\x01\xfe\xff").code, 0);
    assert_eq!(desk.ok("--json get main:raw").object()["base64"], "AAH+/w==");
    let part = desk.ok("--json get main:raw --range 1..3").object();
    assert_eq!((part["size"].as_u64(), part["base64"].as_str()), (Some(2), Some("Af4=")));

    let array = Array::from_vec(vec![3], vec![1_i16, -1, 256]).unwrap();
    desk.file("a.npy", array.to_npy());
    desk.ok("put main:a a.npy");
    let answer = desk.ok("--json get main:a").object();
    assert_eq!((answer["dtype"].as_str(), answer["shape"][0].as_u64()), (Some("int16"), Some(3)));
    assert_eq!(answer["base64"], "AQD//wAB");
}

#[test]
fn ranges_and_metadata() {
    let desk = Desk::new();
    assert_eq!(desk.feed("put main:k", b"0123456789").code, 0);
    assert_eq!(desk.ok("get main:k --range 2..5").out, b"234");
    assert_eq!(desk.ok("get main:k --range 7..").out, b"789");
    assert_eq!(desk.ok("get main:k --range ..99").out, b"0123456789");
    desk.say("get main:k --range 5..2").fails(2, "must not end before");
    let metadata = desk.ok("get main:k --meta").object();
    assert_eq!(metadata["size"], 10);
    assert_eq!(metadata["checksum"], Value::bytes(&b"0123456789"[..]).checksum().to_string());
    assert_eq!(metadata["checksum"], Checksum::of(&[b"0123456789"]).to_string());
}

#[test]
fn conditions_have_their_own_exit_code() {
    let desk = Desk::new();
    let first = desk.ok("--json put main:k --value one --if-absent").object();
    desk.say("put main:k --value two --if-absent").fails(4, "should be absent");
    let version = first["metadata"]["version"].as_u64().unwrap();
    desk.ok(&format!("put main:k --value two --if-version {version}"));
    desk.say(&format!("put main:k --value three --if-version {version}")).fails(4, "was expected");
    desk.say(&format!("rm main:k --if-version {version}")).fails(4, "was expected");
    assert_eq!(desk.ok("get main:k").out, b"two");
    let answer = desk.say("--json put main:k --value x --if-absent");
    assert_eq!((answer.code, answer.out.len()), (4, 0));
    let error: serde_json::Value = serde_json::from_str(&answer.err).unwrap();
    assert_eq!(error["error"]["kind"], "Conflict");
    assert_eq!(error["error"]["code"], 4);
    assert_eq!(
        (error["error"]["storage"].as_str(), error["error"]["key"].as_str()),
        (Some("main"), Some("k"))
    );
}

#[test]
fn tags_and_expiry_are_kept_and_ended() {
    let desk = Desk::new();
    desk.ok("put main:k --value v --ttl 1h --tag a=b --tag c=d=e");
    let stat = desk.ok("--json stat main:k").object();
    assert_eq!(stat["metadata"]["tags"], serde_json::json!({ "a": "b", "c": "d=e" }));
    let left = desk.ok("--json ttl show main:k").object()["seconds_left"].as_f64().unwrap();
    assert!((3590.0..=3600.0).contains(&left), "{left}");
    let text = desk.ok("stat main:k");
    assert!(text.text().contains("tag       c=d=e"), "{}", text.text());
    let before = stat["metadata"]["version"].as_u64().unwrap();
    assert_eq!(desk.ok("ttl clear main:k").text(), "never expires\n");
    let after = desk.ok("--json stat main:k").object();
    assert!(
        after["metadata"]["expires_at"].is_null() && after["metadata"]["version"].as_u64().unwrap() > before
    );
    assert_eq!(after["metadata"]["tags"]["a"], "b");
    desk.ok("ttl set main:k 0.05");
    sleep(Duration::from_millis(100));
    desk.say("get main:k").fails(3, "nothing at");
    desk.say("ttl set main:k 10").fails(3, "nothing at");
    desk.ok("put main:k --value v --expires-at 2001-01-01T00:00:00Z");
    desk.say("stat main:k").fails(3, "nothing at");
    for bad in
        ["--ttl soon", "--ttl -1", "--expires-at tomorrow", "--tag =x", "--tag x", "--ttl 1 --expires-at 2"]
    {
        desk.say(&format!("put main:k --value v {bad}")).fails(2, "error");
    }
}

#[test]
fn deleting() {
    let desk = Desk::new();
    for key in ["a", "ab", "a/b", "a/c/d", "b", "c"] {
        desk.ok(&format!("put main:{key} --value v"));
    }
    let run = desk.say("rm main:b main:absent main:c");
    assert_eq!(run.code, 3);
    assert!(run.err.contains("nothing at main:absent") && run.err.contains("deleted 2 keys"), "{}", run.err);
    desk.ok("rm -f main:absent");
    let rehearsal = desk.ok("rm -r --dry-run main:a");
    assert_eq!(rehearsal.text(), "delete main:a\ndelete main:a/b\ndelete main:a/c/d\n");
    assert_eq!(desk.ok("ls main:").text(), "a\na/b\na/c/d\nab\n");
    let answers = desk.ok("--json rm -r main:a").json();
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[1], serde_json::json!({ "action": "delete", "storage": "main", "key": "a/b" }));
    assert_eq!(answers[3], serde_json::json!({ "action": "summary", "deleted": 3, "dry_run": false }));
    assert_eq!(desk.ok("ls main:").text(), "ab\n");
    desk.say("rm main:").fails(2, "whole storage");
    desk.say("rm -r main:").fails(2, "add --force");
    assert_eq!(desk.ok("ls main:").text(), "ab\n");
    desk.ok("rm -r -f main:");
    assert_eq!(desk.ok("ls main:").text(), "");
}

#[test]
fn rehearsals_change_nothing() {
    let desk = Desk::new();
    let run = desk.ok("put --dry-run main:k --value v");
    assert_eq!(run.text(), "put main:k as bytes, 1 B\n");
    assert!(!desk.has("data"), "a rehearsal must not make the storage");
    desk.ok("put main:k --value v");
    desk.say("put --dry-run main:k --value w --if-absent").fails(4, "should be absent");
    desk.ok("put --dry-run main:k --value w");
    assert_eq!(desk.ok("get main:k").out, b"v");
}

#[test]
fn routes_and_the_default_need_no_name() {
    let desk = Desk::new();
    desk.ok("put :plain --value 1");
    desk.ok("put :weights/w --value 2");
    assert_eq!(desk.ok("get main:plain").out, b"1");
    assert_eq!(desk.ok("get other:weights/w").out, b"2");
    assert_eq!(desk.ok("get :weights/w").out, b"2");
    assert_eq!(desk.ok("ls").text(), "plain\nweights/w\n");
    assert_eq!(desk.ok("ls main:").text(), "plain\n");
}

#[test]
fn a_cache_warns_that_it_forgets() {
    let desk = Desk::new();
    let run = desk.ok("put hot:k --value v");
    assert!(run.err.contains("lives in memory"), "{}", run.err);
    desk.say("get hot:k").fails(3, "nothing at");
}

#[test]
fn quiet_is_quiet_and_errors_stay() {
    let desk = Desk::new();
    assert_eq!(desk.ok("-q put main:k --value v").err, "");
    assert_eq!(desk.ok("-q rm main:k").err, "");
    desk.say("-q get main:k").fails(3, "nothing at");
}
