//! Faulty values, keys and graphs, seen through the door that daemon and `check` share. The numbers are those of the
//! list of faults that the project holds itself to. Files as such are in `config_files.rs`.

mod config_support;

use std::path::Path;

use config_support::{EXEC, Node, TODAY, says};
use ringriftd::config::diagnostic::nearest;
use ringriftd::config::load_on;
use ringriftd::config::schema::{self, Kind};
use ringriftd::spec::{Membership, UnitName};

fn name(text: &str) -> UnitName {
    UnitName::new(text).unwrap()
}

/// E1
#[test]
fn an_unknown_key_is_told_with_its_place_and_the_nearest() {
    let node = Node::new();
    node.unit("a", "descripton = \"x\"");
    says(
        &node.fault(&[]),
        &[
            "units/a.toml:1:1: unknown key \"descripton\"",
            "did you mean \"description\"?",
            "^^^^^^^^^^",
        ],
    );
    node.file(
        "units/a.toml",
        format!("{EXEC}  [restart]\n  polcy = \"always\"\n"),
    );
    says(
        &node.fault(&[]),
        &[
            "units/a.toml:4:3: unknown key \"polcy\"",
            "[restart] holds",
            "did you mean \"policy\"?",
        ],
    );
    node.file("units/a.toml", format!("policy = \"always\"\n{EXEC}"));
    says(
        &node.fault(&[]),
        &["units/a.toml:1:1", "\"policy\" belongs in [restart]"],
    );
}

#[test]
fn tables_of_ones_own_are_free_everywhere_but_single_keys_are_not() {
    let node = Node::new();
    node.unit(
        "a",
        "[x-mine]\nanything = [1, { a = 2 }]\n[restart.x-mine]\nb = 1",
    );
    node.loads(&[]);
    node.unit("a", "x-mine = 1");
    says(&node.fault(&[]), &["units/a.toml:1:1", "not a table"]);
}

#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    let node = Node::new();
    for text in [
        "[resources]\nmemory = 1",
        "[sandbox]",
        "[credentials]",
        "[[socket]]\nlisten = 1",
        "[timer]",
    ] {
        node.unit("a", text);
        says(&node.fault(&[]), &["is not supported yet"]);
    }
    node.unit(
        "a",
        "[health]\ninterval = \"15s\"\n[log]\nmax_size = \"1MiB\"\nmax_files = 2",
    );
    node.loads(&[]);
    node.file("units/a@.toml", EXEC);
    says(
        &node.fault(&[]),
        &["units/a@.toml", "templates are not supported yet"],
    );
    std::fs::remove_file(node.path("units/a@.toml")).unwrap();
    node.file("ringriftd.toml", "")
        .file("profiles/p.toml", "[match]\nhostname = \"x\"");
    says(&node.fault(&[]), &["profiles/p.toml:1:2", "is not supported yet"]);
}

/// E2
#[test]
fn wrong_types_and_numbers_out_of_bounds_are_all_told_at_once() {
    let node = Node::new();
    node.file(
        "units/a.toml",
        "critical = \"true\"\nstartup_position = -1\nrequires = \"b\"\n[exec]\ncommand = \"/bin/true\"\nnice = 2.0\n\
         [restart]\nmax_restarts = 99999999999999999999999\ndelay = 10\nfactor = 0.5\n",
    );
    node.file(
        "units/b.toml",
        "description = 3\n[exec]\ncommand = []\nuser = true\n",
    );
    node.file("ringriftd.toml", "max_starting = 0\n");
    node.file("profiles/p.toml", "units = 7\n");
    let faults = node.faults(&[]);
    let places: Vec<String> = faults
        .iter()
        .map(|f| f.place.as_ref().unwrap().to_string())
        .collect();
    assert_eq!(
        places,
        [
            "profiles/p.toml:1:9",
            "ringriftd.toml:1:16",
            "units/a.toml:1:12",
            "units/a.toml:2:20",
            "units/a.toml:3:12",
            "units/a.toml:5:11",
            "units/a.toml:6:8",
            "units/a.toml:8:16",
            "units/a.toml:9:9",
            "units/a.toml:10:10",
            "units/b.toml:1:15",
            "units/b.toml:3:11",
            "units/b.toml:4:8",
        ]
    );
    let all: String = faults.iter().map(|f| format!("{f}\n")).collect();
    says(
        &all,
        &[
            "did you mean true, without quotes?",
            "did you mean [\"b\"]?",
            "did you mean [\"/bin/true\"]?",
            "did you mean \"10s\"?",
            "\"nice\" must be a whole number from -20 to 19, not a number with a fraction",
        ],
    );
}

#[test]
fn syntax_faults_and_wrong_keys_of_one_file_are_told_together() {
    let node = Node::new();
    node.file("units/a.toml", "critical = tru\nbogus_key = 1\n[exec]\ncommand = [\"/bin/true\"]\nnice = = 3\n[stop]\ntimeout = \"1x\"\n");
    let lines: Vec<u32> = node
        .faults(&[])
        .iter()
        .map(|f| f.place.as_ref().unwrap().at.as_ref().unwrap().line)
        .collect();
    assert_eq!(lines, [1, 2, 5, 7]);
}

/// E3
#[test]
fn an_unknown_unit_is_named_with_who_named_it_and_the_nearest() {
    let node = Node::new();
    node.unit("event_router", "");
    for key in ["requires", "wants", "after", "before", "conflicts"] {
        node.unit("a", &format!("{key} = [\"event_routr\"]"));
        let column = key.len() + 5;
        says(
            &node.fault(&[]),
            &[
                &format!(
                    "units/a.toml:1:{column}: unknown unit \"event_routr\", named in \"{key}\" of \"a\""
                ),
                "\"event_router\"",
            ],
        );
    }
    node.unit("a", "[on_dependency.event_routr]\nfailed = \"keep\"");
    says(&node.fault(&[]), &["units/a.toml:1:16", "\"event_router\""]);
}

/// E4
#[test]
fn a_ring_is_told_by_its_shortest_path_with_the_place_of_each_edge() {
    let node = Node::new();
    node.unit("a", "requires = [\"b\"]").unit("b", "after = [\"a\"]");
    says(
        &node.fault(&[]),
        &[
            "a -> b -> a",
            "units/a.toml:1:13: \"a\" requires \"b\"",
            "units/b.toml:1:10: \"b\" is after \"a\"",
        ],
    );
    let node = Node::new();
    node.unit("a", "before = [\"b\"]")
        .unit("b", "wants = [\"c\"]")
        .unit("c", "before = [\"a\"]");
    // c is before a: a waits for c; a is before b: b waits for a; b wants c. No ring.
    node.loads(&[]);
    node.unit("c", "after = [\"b\"]");
    says(
        &node.fault(&[]),
        &["ring", "units/b.toml:1:10", "units/c.toml:1:10"],
    );
    // A ring of 50 with a short cut of three.
    let node = Node::new();
    for i in 0..50 {
        let next = (i + 1) % 50;
        let head = if i == 20 {
            "requires = [\"u21\", \"u18\"]".to_owned()
        } else {
            format!("requires = [\"u{next}\"]")
        };
        node.unit(&format!("u{i}"), &head);
    }
    says(&node.fault(&[]), &["u18 -> u19 -> u20 -> u18"]);
}

/// E5
#[test]
fn a_unit_that_names_itself_is_refused() {
    let node = Node::new();
    for key in ["requires", "wants", "after", "before", "conflicts"] {
        node.unit("a", &format!("{key} = [\"A\"]"));
        says(&node.fault(&[]), &["units/a.toml:1:", "itself"]);
    }
}

/// E6
#[test]
fn names_that_are_the_same_to_a_person_are_refused() {
    let node = Node::new();
    node.unit("auto_sync", "").unit("auto-sync", "");
    says(
        &node.fault(&[]),
        &["units/auto_sync.toml", "same to a person", "units/auto-sync.toml"],
    );
    for bad in ["Auto_sync2", "äuto", "a\u{308}uto", "_x", "a b", &"x".repeat(65)] {
        let node = Node::new();
        node.unit(bad, "");
        says(&node.fault(&[]), &["is not the name of a unit"]);
    }
    // Where a name is typed, a look-alike (here the Kelvin sign) is no name either.
    let node = Node::new();
    node.unit("k", "").unit("a", "requires = [\"\u{212a}\"]");
    says(
        &node.fault(&[]),
        &["units/a.toml:1:13", "is not the name of a unit"],
    );
    // The same name in two folders that a person named.
    let node = Node::new();
    node.unit("a", "").file("more/a.toml", EXEC);
    let mut places = node.places();
    let mut second = places.units[0].clone();
    second.path = node.path("more");
    places.units.push(second);
    let report = load_on(&places, &[], TODAY).map(|_| ()).unwrap_err();
    says(
        &report.to_string(),
        &["a second unit \"a\"", "units/a.toml", "more/a.toml"],
    );
    // In fixed places the first covers the second.
    for dir in &mut places.units {
        dir.is_chosen = false;
    }
    places.uid = u32::MAX;
    assert!(
        !load_on(&places, &[], TODAY)
            .map_or_else(|r| r.to_string(), |_| String::new())
            .contains("a second unit")
    );
}

#[test]
fn names_are_folded_where_a_person_types_them() {
    let node = Node::new();
    node.unit("auto_sync", "")
        .unit("b", "requires = [\"AUTO-SYNC.service\"]");
    node.file(
        "profiles/main.toml",
        "units = [\"B\"]\n[override.Auto-Sync.restart]\npolicy = \"never\"\n",
    );
    let loaded = node.loads(&["MAIN"]);
    assert_eq!(loaded.plan.units["b"].requires, [name("auto_sync")]);
    assert_eq!(loaded.find("AUTO-SYNC.service"), Some(&name("auto_sync")));
    assert_eq!(
        loaded.plan.members[&name("auto_sync")],
        Membership::AddedBy { unit: name("b") }
    );
    assert_eq!(
        loaded.plan.units["auto_sync"].restart.policy,
        ringriftd::spec::RestartPolicy::Never
    );
}

/// E8
#[test]
fn each_wrong_duration_size_and_signal_shows_the_grammar() {
    let node = Node::new();
    for bad in ["10", "-1s", "1e9h", "1h30"] {
        node.unit("a", &format!("[stop]\ntimeout = \"{bad}\""));
        says(&node.fault(&[]), &["units/a.toml:2:11", "1h30m"]);
    }
    node.unit("a", "[stop]\ntimeout = \"0s\"");
    says(&node.fault(&[]), &["units/a.toml:2:11", "longer than zero"]);
    node.unit("a", "[restart]\ndelay = \"0s\"");
    node.loads(&[]);
    node.unit("a", "[log]\nmax_size = \"1KiBB\"");
    says(&node.fault(&[]), &["units/a.toml:2:12", "16MiB"]);
    node.unit("a", "[stop]\nsignals = [\"TERM\", \"SIGFOO\"]");
    says(
        &node.fault(&[]),
        &["units/a.toml:2:20", "unknown signal \"SIGFOO\"", "RTMIN+n"],
    );
}

/// E15
#[test]
fn a_deprecated_member_is_warned_of_with_the_live_end_of_its_chain() {
    let node = Node::new();
    let dep = |by: &str| format!("[deprecated]\nsince = \"2025-12\"\n{by}note = \"move on\"");
    node.unit("health_check", &dep("replaced_by = \"node_health_monitor\"\n"));
    node.unit("node_health_monitor", &dep("replaced_by = \"health_server\"\n"));
    node.unit("health_server", "");
    node.unit("vast_idle", &dep("remove_after = \"2026-01-01\"\n"));
    node.file(
        "profiles/p.toml",
        "units = [\"health_check\", \"vast_idle\", \"health_server\", \"node_health_monitor\"]",
    );
    let loaded = node.loads(&["p"]);
    let texts: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    says(
        &texts[0],
        &[
            "units/health_check.toml",
            "deprecated",
            "move on",
            "use \"health_server\"",
        ],
    );
    says(&texts[2], &["OVERDUE", "2026-01-01", "replacement: none"]);
    let live = |unit: &str| loaded.plan.units[unit].deprecated.clone().unwrap().live_end;
    assert_eq!(
        (live("health_check"), live("vast_idle")),
        (Some(name("health_server")), None)
    );

    node.unit("health_server", &dep("replaced_by = \"health_check\"\n"));
    says(
        &node.fault(&["p"]),
        &[
            "replace each other in a ring",
            "health_check -> node_health_monitor -> health_server -> health_check",
        ],
    );
    node.unit("health_server", "")
        .unit("vast_idle", &dep("replaced_by = \"Tournament system\"\n"));
    says(
        &node.fault(&["p"]),
        &["units/vast_idle.toml:3:15", "is not the name of a unit"],
    );
    node.unit("vast_idle", &dep("remove_after = \"2026-13-01\"\n"));
    says(
        &node.fault(&["p"]),
        &["units/vast_idle.toml:3:16", "is not a day"],
    );
}

/// E17
#[test]
fn templates_are_checked_when_files_are_loaded() {
    let node = Node::new();
    let exec = |text: &str| {
        node.file(
            "units/a.toml",
            format!("[exec]\ncommand = [\"/bin/true\"]\n{text}\n"),
        )
        .fault(&[])
    };
    says(
        &exec("working_dir = \"${UNSET}\""),
        &["units/a.toml:3:15", "\"UNSET\" is not set for \"a\"", "pass_env"],
    );
    says(
        &exec("working_dir = \"${\""),
        &["units/a.toml:3:15", "not closed"],
    );
    says(
        &exec("env = { A = \"${B}\", B = \"${A}\" }"),
        &["ring: A -> B -> A"],
    );
    says(&exec("env = { A = \"${A}\" }"), &["\"A\" is not set"]);
    says(&exec("env = { A = \"a\\u0000\" }"), &["NUL"]);
    says(
        &exec("env = { NOTIFY_SOCKET = \"x\" }"),
        &["set by ringriftd itself"],
    );
    let big = "x".repeat(30_000);
    says(
        &exec(&format!(
            "env = {{ A = \"{big}\", B = \"{big}\", C = \"{big}\", D = \"{big}\", E = \"{big}\", F = \"{big}\" }}"
        )),
        &["E2BIG"],
    );
    for sound in [
        "working_dir = \"${UNSET:-/}\"",
        "working_dir = \"$$\"",
        "working_dir = \"${HOME}\"",
        "env = { PATH = \"${PATH}:/x\" }",
        "working_dir = \"${X}\"\nenv_files = [\"-/nowhere\"]",
        "working_dir = \"${X}\"\npass_env = [\"X\"]",
        "working_dir = \"${X}\"\nenv = { X = \"${RINGRIFT_UNIT}\" }",
    ] {
        node.file(
            "units/a.toml",
            format!("[exec]\ncommand = [\"/bin/true\"]\n{sound}\n"),
        )
        .loads(&[]);
    }
}

#[test]
fn values_of_variables_are_shown_nowhere() {
    let node = Node::new();
    node.file(
        "units/a.toml",
        "[exec]\ncommand = [\"/bin/true\"]\nenv = { TOKEN = \"s3cr3t\", B = 7 }\n",
    );
    let fault = node.fault(&[]);
    says(&fault, &["units/a.toml:3:31", "TOKEN"]);
    assert!(!fault.contains("s3cr3t"), "{fault}");
    node.file(
        "units/a.toml",
        "[exec]\ncommand = [\"/bin/true\"]\n[exec.env]\nTOKEN = \"s3cr3t\nB = s3cr3t\n",
    );
    assert!(node.faults(&[]).iter().all(|f| !f.to_string().contains("s3cr3t")));
    node.file(
        "units/a.toml",
        "[exec]\ncommand = [\"/bin/true\"]\n[exec.env]\nTOKEN = \"s3cr3t\"\nOTHER = \"\"\"\ns3cr3t\n\"\"\"\n",
    );
    let loaded = node.loads(&[]);
    let definition = loaded.definition(&name("a")).unwrap();
    assert!(!format!("{definition:?}").contains("s3cr3t"), "{definition:?}");
    let setting = definition
        .settings
        .iter()
        .find(|s| s.key == "exec.env.TOKEN")
        .unwrap();
    assert_eq!(
        (setting.value.as_str(), setting.origin.as_str()),
        ("\"…\"", "units/a.toml:4:9")
    );
    assert!(
        definition
            .settings
            .iter()
            .any(|s| s.key == "restart.policy" && s.value == "\"always\"" && s.origin == "default")
    );
    node.file(
        "units/a.toml",
        "[exec]\ncommand = [\"/bin/true\"]\nenv.TOKEN = \"${s3cr3t\"\n",
    );
    assert!(!node.fault(&[]).contains("s3cr3t"));
}

#[test]
fn layers_lie_over_each_other_in_order() {
    let node = Node::new();
    node.file(
        "ringriftd.toml",
        "profiles = [\"p\"]\nmax_starting = 4\n[defaults.unit.stop]\ntimeout = \"1s\"\n[defaults.unit.exec]\nenv = { A = \"0\", B = \"0\" }\n\
         [runner.r]\ncommand = [\"run\"]\nrequires_env = [\"HOME_OF_IT\"]\notherwise = [\"${RINGRIFTD}\", \"stand-in\"]\nnote = \"stand-in\"\n",
    );
    node.file("units/a.toml", "critical = true\n[exec]\nrunner = \"r\"\nargs = [\"x\"]\nenv = { A = \"1\" }\n[restart]\nmax_restarts = 1\n");
    node.file(
        "units/a.d/10.toml",
        "[restart]\nmax_restarts = 2\ndelay = \"400s\"\n",
    )
    .file("units/a.d/20.toml", "[restart]\nmax_restarts = 3\n");
    node.file(
        "profiles/p.toml",
        "units = [\"a\"]\n[override.a.restart]\nwindow = \"2h\"\n",
    );
    let loaded = node.loads(&[]);
    let unit = &loaded.plan.units["a"];
    assert_eq!(unit.restart.max_restarts, Some(3));
    assert_eq!(unit.restart.window.as_secs(), 7200);
    assert_eq!(
        (unit.restart.delay.as_secs(), unit.restart.max_delay.as_secs()),
        (400, 400)
    );
    assert_eq!(unit.restart.retry_every.as_secs(), 1800);
    assert_eq!(unit.stop.timeout.as_secs(), 1);
    let env: Vec<String> = unit.exec.env.iter().map(|(n, t)| format!("{n}={t}")).collect();
    assert_eq!(env, ["A=1", "B=0"]);
    assert!(
        matches!(&unit.exec.command, ringriftd::spec::Command::Runner { name, args, .. } if name == "r" && args.len() == 1)
    );
    let origin = |key: &str| {
        let definition = loaded.definition(&name("a")).unwrap();
        definition
            .settings
            .into_iter()
            .find(|s| s.key == key)
            .unwrap()
            .origin
    };
    assert_eq!(origin("restart.max_restarts"), "units/a.d/20.toml:2:16");
    assert_eq!(origin("restart.window"), "profiles/p.toml:3:10");
    assert_eq!(origin("stop.timeout"), "ringriftd.toml:4:11");
    // A drop-in may turn a runner's unit into a plain command, but one file may not say both.
    node.file("units/a.d/30.toml", "[exec]\ncommand = [\"/bin/true\"]\n");
    assert!(matches!(
        &node.loads(&[]).plan.units["a"].exec.command,
        ringriftd::spec::Command::Direct(_)
    ));
    node.file(
        "units/a.d/30.toml",
        "[exec]\ncommand = [\"/bin/true\"]\nrunner = \"r\"\n",
    );
    says(
        &node.fault(&[]),
        &["units/a.d/30.toml:3:1", "both a command and a runner"],
    );
    // The digest is that of the content, not of its place.
    std::fs::remove_file(node.path("units/a.d/30.toml")).unwrap();
    let before = node.loads(&[]).plan.units["a"].digest.clone();
    node.file("units/a.d/05.toml", "# nothing\n");
    assert_eq!(node.loads(&[]).plan.units["a"].digest, before);
    node.file("units/a.d/30.toml", "[stop]\ntimeout = \"2s\"\n");
    assert_ne!(node.loads(&[]).plan.units["a"].digest, before);
}

#[test]
fn a_restart_limit_can_be_taken_off() {
    let node = Node::new();
    node.unit("a", "[restart]\nmax_restarts = \"unlimited\"");
    assert_eq!(node.loads(&[]).plan.units["a"].restart.max_restarts, None);
    node.unit("a", "[restart]\nmax_restarts = \"lots\"");
    says(&node.fault(&[]), &["units/a.toml:2:16", "or \"unlimited\""]);
}

#[test]
fn exactly_one_of_command_and_runner_is_asked_for() {
    let node = Node::new();
    node.file("units/a.toml", "[exec]\nkind = \"simple\"\n");
    says(
        &node.fault(&[]),
        &["units/a.toml:1:2", "does not say what to run"],
    );
    node.file("units/a.toml", "[exec]\nrunner = \"ringrfit\"\n")
        .file("ringriftd.toml", "[runner.ringrift]\ncommand = [\"x\"]\n");
    says(
        &node.fault(&[]),
        &["units/a.toml:2:10", "unknown runner", "\"ringrift\""],
    );
    node.file("units/a.toml", "[exec]\ncommand = [\"x\"]\nargs = [\"y\"]\n");
    says(&node.fault(&[]), &["units/a.toml:3:1", "without a runner"]);
}

#[test]
fn profiles_extend_exclude_and_pull_in() {
    let node = Node::new();
    node.unit("a", "category = \"queue\"")
        .unit("b", "requires = [\"c\"]\ncategory = \"queue\"")
        .unit("c", "wants = [\"d\"]")
        .unit("d", "");
    node.unit("e_sync", "").unit("f_sync", "");
    node.file(
        "profiles/base.toml",
        "description = \"Base\"\nunits = [\"@queue\"]",
    );
    node.file(
        "profiles/p.toml",
        "extends = [\"base\"]\nunits = [\"*_sync\"]\nexclude = [\"a\", \"f_sync\"]",
    );
    node.file("profiles/full.toml", "units = [\"*\"]")
        .file("profiles/empty.toml", "");
    let loaded = node.loads(&["p"]);
    let members: Vec<String> = loaded
        .plan
        .members
        .iter()
        .map(|(n, m)| format!("{n}:{m:?}"))
        .collect();
    assert_eq!(
        members,
        [
            "b:Listed { profile: \"p\" }",
            "c:AddedBy { unit: b }",
            "d:AddedBy { unit: c }",
            "e_sync:Listed { profile: \"p\" }",
        ]
    );
    assert_eq!(loaded.profiles["full"].members.len(), 6);
    assert_eq!(loaded.profiles["empty"].members.len(), 0);
    assert_eq!(loaded.profiles["base"].listed.len(), 2);
    assert_eq!(loaded.orphans, [name("f_sync")]);
    assert!(node.loads(&[]).plan.members.is_empty());
    assert_eq!(node.loads(&["p", "base"]).plan.members.len(), 5);
    let bad = |text: &str| node.file("profiles/bad.toml", text).fault(&[]);
    says(
        &bad("units = [\"a\", \"A\"]"),
        &["profiles/bad.toml:1:15", "twice"],
    );
    says(
        &bad("units = [\"zzz\"]"),
        &["profiles/bad.toml:1:10", "unknown unit"],
    );
    says(&bad("units = [\"@quee\"]"), &["\"queue\""]);
    says(&bad("units = [\"%base\"]"), &["no selector of a profile"]);
    says(&bad("extends = [\"bsae\"]"), &["unknown profile", "\"base\""]);
    says(&bad("extends = [\"bad\"]"), &["ring: bad -> bad"]);
    says(
        &bad("[override.zzz.stop]\ntimeout = \"1s\""),
        &["profiles/bad.toml:1:11", "unknown unit"],
    );
    says(
        &bad("[override.a.stop]\ntimout = \"1s\""),
        &["profiles/bad.toml:2:1", "[override.a.stop] holds", "\"timeout\""],
    );
    std::fs::remove_file(node.path("profiles/bad.toml")).unwrap();
    says(&node.fault(&["auto"]), &["\"auto\" is not supported yet"]);
    says(
        &node.fault(&["emty"]),
        &["unknown profile \"emty\"", "command line", "\"empty\""],
    );
    says(
        &Node::new().fault(&["minimal"]),
        &[
            "unknown profile \"minimal\"",
            "no profile was found at all",
            "--profiles",
        ],
    );
}

#[test]
fn contradicting_overrides_name_both_places_unless_one_extends_the_other() {
    let node = Node::new();
    node.unit("a", "");
    let over = |value: &str| format!("units = [\"a\"]\n[override.a.restart]\npolicy = \"{value}\"\n");
    node.file("profiles/p.toml", over("never"))
        .file("profiles/q.toml", over("always"));
    says(
        &node.fault(&["p", "q"]),
        &["profiles/q.toml:3:10", "profiles/p.toml:3:10", "contradict"],
    );
    node.loads(&["p"]);
    node.file(
        "profiles/q.toml",
        format!(
            "extends = [\"p\"]\n{}",
            over("on-failure").replace("units = [\"a\"]\n", "")
        ),
    );
    for profiles in [["p", "q"], ["q", "p"]] {
        let loaded = node.loads(&profiles);
        assert_eq!(
            loaded.plan.units["a"].restart.policy,
            ringriftd::spec::RestartPolicy::OnFailure
        );
    }
}

#[test]
fn conflicts_between_members_and_with_requirements_are_refused() {
    let node = Node::new();
    node.unit("a", "conflicts = [\"b\"]")
        .unit("b", "")
        .unit("c", "requires = [\"b\"]");
    node.file("profiles/p.toml", "units = [\"a\", \"c\"]");
    node.loads(&[]);
    says(
        &node.fault(&["p"]),
        &["units/a.toml:1:14", "\"b\" is added by \"c\""],
    );
    node.unit("a", "requires = [\"b\"]\nconflicts = [\"b\"]");
    says(
        &node.fault(&[]),
        &["units/a.toml:2:14", "conflicts with it", "units/a.toml:1:13"],
    );
}

/// A tiny generator of numbers (splitmix64), so that every run makes the same files.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    }

    /// One slip of the fingers: a letter lost, doubled, swapped with the next, or another.
    fn slip(&mut self, word: &str) -> String {
        let mut letters: Vec<char> = word.chars().collect();
        let at = self.roll(letters.len());
        match self.roll(4) {
            0 => drop(letters.remove(at)),
            1 => letters.insert(at, letters[at]),
            2 if at + 1 < letters.len() => letters.swap(at, at + 1),
            _ => letters[at] = char::from(b'a' + self.roll(26) as u8),
        }
        letters.into_iter().collect()
    }
}

#[test]
fn two_hundred_files_with_one_slip_each_are_refused_at_the_slip_with_the_right_word() {
    let mut dice = Dice(20_260_115);
    let leaves: Vec<(String, &schema::Key)> = schema::leaves(schema::UNIT)
        .into_iter()
        .filter(|(_, k)| !matches!(k.kind, Kind::Later))
        .collect();
    let mut done = std::collections::BTreeSet::new();
    let mut files = 0;
    while files < 200 {
        let (path, key) = &leaves[dice.roll(leaves.len())];
        let (table, last) = path.rsplit_once('.').unwrap_or(("", path));
        let words: Option<&[&str]> = match key.kind {
            Kind::Word(words, _) => Some(words),
            _ => None,
        };
        let siblings: Vec<&str> = leaves
            .iter()
            .filter_map(|(p, k)| (p.rsplit_once('.').map_or("", |(t, _)| t) == table).then_some(k.name))
            .collect();
        // The slip is in a word of a closed list, in a unit's name, in a table's name, or in a key.
        let (head, line, wrong, right, column, known): (String, String, String, &str, usize, Vec<&str>) =
            match (dice.roll(4), words) {
                (0, Some(words)) => {
                    let right = words[dice.roll(words.len())];
                    let wrong = dice.slip(right);
                    (
                        table.to_owned(),
                        format!("{last} = \"{wrong}\""),
                        wrong,
                        right,
                        last.len() + 4,
                        words.to_vec(),
                    )
                }
                (1, _) => {
                    let units = [
                        "event_router",
                        "data_pipeline",
                        "feedback_loop",
                        "queue_populator",
                        "target",
                    ];
                    let right = units[dice.roll(units.len() - 1)];
                    let wrong = dice.slip(right);
                    let list = ["requires", "wants", "after", "conflicts"][dice.roll(4)];
                    (
                        String::new(),
                        format!("{list} = [\"{wrong}\"]"),
                        wrong,
                        right,
                        list.len() + 5,
                        units.to_vec(),
                    )
                }
                (2, _) if !table.is_empty() => {
                    let wrong = dice.slip(table);
                    let top = schema::UNIT
                        .iter()
                        .filter(|k| !matches!(k.kind, Kind::Later))
                        .map(|k| k.name)
                        .collect();
                    (String::new(), format!("[{wrong}]"), wrong, table, 2, top)
                }
                _ => {
                    let wrong = dice.slip(last);
                    (table.to_owned(), format!("{wrong} = 1"), wrong, last, 1, siblings)
                }
            };
        // A slip that makes another valid or planned word, or one that is as near to another, is nobody's to guess.
        let is_bare = wrong
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
            && wrong.len() > 2;
        let is_taken = schema::UNIT.iter().chain(schema::EXEC).any(|k| k.name == wrong)
            || known.contains(&wrong.as_str());
        let slips = |w: &str| strsim::damerau_levenshtein(&wrong, w);
        let is_plain = known.iter().all(|w| *w == right || slips(w) > slips(right));
        if !is_bare
            || is_taken
            || !is_plain
            || right.len() < 4
            || nearest(&wrong, [right]).is_none()
            || !done.insert(line.clone())
        {
            continue;
        }
        files += 1;
        let node = Node::new();
        for unit in [
            "event_router",
            "data_pipeline",
            "feedback_loop",
            "queue_populator",
        ] {
            node.unit(unit, "");
        }
        let comments = "# a comment\n".repeat(dice.roll(5));
        let mut text = comments.clone();
        let exec = if head == "exec" {
            "command = [\"/bin/true\"]\n"
        } else {
            ""
        };
        let mut line_number = comments.lines().count() + 1;
        if !head.is_empty() {
            text.push_str(&format!("[{head}]\n{exec}"));
            line_number += 1 + exec.lines().count();
        }
        text.push_str(&format!("{line}\n"));
        if head != "exec" {
            text.push_str(EXEC);
        }
        node.file("units/target.toml", &text);
        let faults = node.faults(&[]);
        let fault = faults[0].to_string();
        assert_eq!(faults.len(), 1, "{text}\n{fault}");
        says(
            &fault,
            &[
                &format!("error: units/target.toml:{line_number}:{column}: unknown "),
                &format!("did you mean \"{right}\""),
            ],
        );
    }
}

#[test]
fn ten_thousand_units_with_a_hundred_thousand_edges_load_in_time() {
    let node = Node::new();
    let mut dice = Dice(7);
    for i in 0..10_000usize {
        let edges: std::collections::BTreeSet<usize> =
            (0..10).filter(|_| i > 0).map(|_| dice.roll(i)).collect();
        let list: Vec<String> = edges.iter().map(|e| format!("\"u{e}\"")).collect();
        let key = ["requires", "wants", "after"][dice.roll(3)];
        node.unit(&format!("u{i}"), &format!("{key} = [{}]", list.join(", ")));
    }
    node.file("profiles/full.toml", "units = [\"*\"]");
    let start = std::time::Instant::now();
    let loaded = node.loads(&["full"]);
    let took = start.elapsed();
    assert_eq!(loaded.plan.members.len(), 10_000);
    println!("10 000 units took {took:?}");
    assert!(took.as_secs() < 60, "{took:?}");
}

#[test]
fn the_reference_for_people_is_the_schema() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for (file, keys) in [
        ("units.md", schema::UNIT),
        ("units.md", schema::NODE),
        ("profiles.md", schema::PROFILE),
    ] {
        let text = std::fs::read_to_string(docs.join(file)).unwrap();
        let table = schema::reference(keys);
        assert!(
            text.contains(&table),
            "docs/{file} lacks this table, or has another:\n\n{table}"
        );
    }
}

#[test]
fn what_is_wrong_with_a_check_is_told_at_its_place() {
    let node = Node::new();
    for (text, place, said) in [
        (
            "[health]\nprobe = { http = \"ftp://x/\" }",
            "units/a.toml:2:18",
            "cannot be asked",
        ),
        (
            "[health]\nprobe = { http = \"https://x/\" }",
            "units/a.toml:2:18",
            "plain http",
        ),
        (
            "[health]\nprobe = { http = \"http://u:p@x/\" }",
            "units/a.toml:2:18",
            "no password",
        ),
        (
            "[ready]\nprobe = { tcp = \"localhost\" }",
            "units/a.toml:2:17",
            "host:port",
        ),
        (
            "[ready]\nprobe = { tcp = \"localhost:0\" }",
            "units/a.toml:2:17",
            "1 to 65535",
        ),
        (
            "[ready]\nprobe = { file = \"here\" }",
            "units/a.toml:2:18",
            "begins with",
        ),
        (
            "[ready]\nprobe = { log_line = \"(\" }",
            "units/a.toml:2:22",
            "regular expression",
        ),
        (
            "[ready]\nprobe = { log_line = 1 }",
            "units/a.toml:2:22",
            "must be text",
        ),
        (
            "[ready]\nprobe = { command = [] }",
            "units/a.toml:2:21",
            "names no program",
        ),
        (
            "[ready]\nprobe = { tcp = \"x:1\", http = \"http://x\" }",
            "units/a.toml:2:",
            "two kinds in one probe",
        ),
        ("[ready]\nprobe = {}", "units/a.toml:2:9", "asks nothing"),
        (
            "[ready]\nprobe = { htpp = \"http://x\" }",
            "units/a.toml:2:11",
            "did you mean \"http\"?",
        ),
        ("[ready]\nprobe = \"http://x\"", "units/a.toml:2:9", "must be"),
        (
            "[health]\nwatchdog = \"20s\"",
            "units/a.toml:2:1",
            "kind = \"notify\"",
        ),
        (
            "[health]\ninterval = \"1s\"\ntimeout = \"2s\"",
            "units/a.toml:3:11",
            "longer than \"interval\"",
        ),
        ("[health]\nfailures = 0", "units/a.toml:2:12", "out of bounds"),
        (
            "[health]\non_failure = \"restrat\"",
            "units/a.toml:2:14",
            "did you mean \"restart\"?",
        ),
        (
            "[health]\nprobe = { http = \"http://x/${NOWHERE}\" }",
            "units/a.toml:2:18",
            "variable \"NOWHERE\" is not set",
        ),
    ] {
        node.unit("a", text);
        says(&node.fault(&[]), &[place, said]);
    }
    node.file(
        "units/a.toml",
        "[ready]\nprobe = { tcp = \"x:1\" }\n[exec]\nkind = \"oneshot\"\ncommand = [\"/bin/true\"]\n",
    );
    says(&node.fault(&[]), &["units/a.toml:2:1", "oneshot"]);
}

#[test]
fn a_check_is_what_its_file_says_and_a_default_watchdog_is_for_whom_it_can_be() {
    use ringriftd::spec::{OnUnhealthy, Probe};
    use std::time::Duration;
    let node = Node::new();
    node.file("ringriftd.toml", "[defaults.unit.health]\nwatchdog = \"1m\"\n");
    node.unit(
        "a",
        "[health]\ninterval = \"2s\"\nfailures = 2\non_failure = \"mark\"\nprobe = { http = \"http://127.0.0.1:${PORT:-80}/\" }",
    );
    node.unit("b", "[ready]\n[ready.probe]\ncommand = [\"/bin/true\", \"x\"]");
    node.file(
        "units/c.toml",
        "[exec]\nkind = \"notify\"\ncommand = [\"/bin/true\"]\n",
    );
    let loaded = node.loads(&[]);
    let unit = |text: &str| &loaded.plan.units[&name(text)];
    let a = unit("a").health.as_ref().expect("it has one");
    assert!(matches!(&a.probe, Some(Probe::Http(_))));
    assert_eq!((a.failures, a.on_failure), (2, OnUnhealthy::Mark));
    // No longer than the interval, so that no two overlap.
    assert_eq!(
        (a.timeout, a.grace),
        (Duration::from_secs(2), Duration::from_secs(60))
    );
    assert_eq!(a.watchdog, None);
    assert!(matches!(&unit("b").ready_probe, Some(Probe::Command(argv)) if argv.len() == 2));
    let c = unit("c").health.as_ref().expect("by the default");
    assert_eq!(c.watchdog, Some(Duration::from_secs(60)));
}
