//! What a plan shows can be read again.

use persist_manager::Plan;

use crate::support::{options, plan, shown};

#[test]
fn what_is_shown_is_a_configuration_with_every_default() {
    let yaml = "
storages:
  main: { type: probe, path: data, ttl: 2h, url: 'a: b # c', max_bytes: 1KiB }
  side: { type: probing, mode: relaxed }
default_storage: main
routes: [{ prefix: 'true', storage: side }]
maintenance: { interval: 600 }
";
    let plan = plan(yaml, &[]);
    let text = plan.to_yaml();
    for wanted in
        ["persistence:\n", "  default_storage: main\n", "type: probe\n", "mode: strict\n", "mode: relaxed\n"]
    {
        assert!(text.contains(wanted), "{wanted} in\n{text}");
    }
    assert!(!text.contains("null"), "{text}");
    let again = Plan::from_yaml(&text, &options(&[])).unwrap();
    assert_eq!(shown(&again), shown(&plan));
    assert_eq!(again.to_yaml(), text);
    assert_eq!(again.routes().collect::<Vec<_>>(), [("true", "side")]);
    let order: Vec<&str> = again.names().collect();
    assert_eq!(order, ["main", "side"]);
}
