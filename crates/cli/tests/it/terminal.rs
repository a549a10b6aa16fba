//! What a person sees: the tool on a real terminal, of Python's `pty`.

use wiredflow_testkit::FlowTest;

use crate::SOON;

/// Runs its arguments on a terminal of 25 lines and 72 columns and passes on what is shown.
const TERMINAL: &str = "
import fcntl, os, pty, struct, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 25, 72, 0, 0))
while True:
    try:
        shown = os.read(terminal, 65536)
    except OSError:
        break
    if not shown:
        break
    os.write(1, shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

const FLOW: &str = "
name: seen
pipelines:
  talk:
    every: 150ms
    stages:
      - core_logic: {python: \"logic.py:talk\"}
      - store: {json: {folder: data}}
";

const LOGIC: &str = "
import itertools
numbers = itertools.count()

def talk(relevant_info=None, **params):
    print('line', next(numbers), 'of the user')
    return {'x': 1}
";

fn seen(environment: &[(&str, &str)], arguments: &[&str]) -> (String, FlowTest) {
    let mut test = FlowTest::new("python3").env("TERM", "xterm");
    for (name, value) in environment {
        test = test.env(name, value);
    }
    test.file("flow.yaml", FLOW);
    test.file("logic.py", LOGIC);
    let command = ["-c", TERMINAL, env!("CARGO_BIN_EXE_wiredflow")];
    let ended = test.spawn(command.iter().chain(arguments)).wait(SOON);
    ended.assert_code(0);
    (ended.stdout.replace("\r\n", "\n"), test)
}

/// What stands on the terminal at the end: lines, with the moves of the cursor carried out.
fn screen(output: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut row = 0;
    let mut rest = output;
    while let Some(next) = rest.chars().next() {
        rest = &rest[next.len_utf8()..];
        match next {
            '\n' => {
                row += 1;
                if row == lines.len() {
                    lines.push(String::new());
                }
                assert!(
                    lines[row].is_empty(),
                    "line {row} is written over: {:?}",
                    lines[row]
                );
            }
            '\x1b' => {
                let end = rest.find(|one: char| one.is_ascii_alphabetic()).unwrap();
                let (number, command) = (&rest[1..end], &rest[end..=end]);
                match command {
                    "F" => row -= number.parse::<usize>().unwrap(),
                    "J" => {
                        lines.truncate(row);
                        lines.push(String::new());
                    }
                    "m" => {}
                    _ => panic!("{number}{command}"),
                }
                rest = &rest[end + 1..];
            }
            letter => lines[row].push(letter),
        }
    }
    lines
}

#[test]
fn the_live_table_destroys_no_log_line_and_is_gone_at_the_end() {
    let (output, test) = seen(&[], &["run", "flow.yaml", "--for", "3s"]);
    assert!(output.contains("\x1b[J"), "live lines were drawn\n{output}");
    let live = output
        .split('\x1b')
        .filter(|part| part.contains("^C stops it"))
        .count();
    assert!(live >= 2, "{output}");
    let screen = screen(&output);
    let said = screen
        .iter()
        .filter(|line| line.contains("of the user"))
        .count();
    let stored = test
        .read_json("data/json_in_talk.json")
        .as_array()
        .unwrap()
        .len();
    assert_eq!(said, stored, "{}", screen.join("\n"));
    for number in 0..said {
        let line = format!("talk/core_logic line {number} of the user");
        assert!(
            screen.iter().any(|shown| shown.ends_with(&line)),
            "{line}\n{}",
            screen.join("\n")
        );
    }
    assert!(
        !screen.iter().any(|line| line.contains("has run for")),
        "{}",
        screen.join("\n")
    );
    assert!(
        screen
            .iter()
            .any(|line| line.starts_with("seen ran for 3.")),
        "{}",
        screen.join("\n")
    );
}

#[test]
fn the_live_table_fits_the_terminal() {
    let (output, _) = seen(
        &[("NO_COLOR", "1")],
        &["run", "flow.yaml", "--for", "2500ms"],
    );
    let live = output.split("\x1b[J").skip(1);
    let lines: Vec<&str> = live
        .flat_map(str::lines)
        .filter(|line| line.starts_with("talk "))
        .collect();
    assert!(!lines.is_empty(), "{output}");
    assert!(
        lines.iter().all(|line| line.chars().count() <= 72),
        "{lines:?}"
    );
}

#[test]
fn colours_are_for_terminals_and_no_color_switches_them_off() {
    let (colourful, _) = seen(&[], &["check", "flow.yaml"]);
    assert_eq!(colourful, "flow.yaml is fine: 1 pipeline, 2 stages\n");
    let (colourful, _) = seen(&[], &["stages"]);
    assert!(colourful.contains("\x1b[1mStages\x1b[0m"), "{colourful:?}");
    let (plain, _) = seen(&[("NO_COLOR", "1")], &["stages"]);
    assert!(!plain.contains('\x1b'), "{plain:?}");
    assert!(
        plain.lines().all(|line| line.chars().count() <= 72),
        "{plain}"
    );
    let (plain, _) = seen(
        &[("NO_COLOR", "1")],
        &["run", "flow.yaml", "--for", "1s", "--json"],
    );
    assert!(!plain.contains("\x1b"), "{plain:?}");
}
