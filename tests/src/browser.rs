//! A real browser: Debian's chromium without a window, told what to do over a pipe in its own protocol (Chrome DevTools).
//! Small on purpose: one page, and what a test of the dashboard needs of it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use serde_json::{Value, json};

use crate::PATIENCE;

/// A browser with one page.
pub struct Browser {
    child: Child,
    orders: File,
    answers: Receiver<Value>,
    session: String,
    number: u64,
    /// What went wrong on the page: exceptions, refusals by its policy, errors on the console.
    pub faults: Vec<String>,
    /// Everything that the page asked for, by its address.
    pub asked: Vec<String>,
    _profile: tempfile::TempDir,
}

/// The program, where there is one.
pub fn program() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| crate::has_program(name))
}

impl Browser {
    /// Starts one.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let (its_orders, orders) = std::io::pipe().expect("a pipe");
        let (answers, its_answers) = std::io::pipe().expect("a pipe");
        let mut command = Command::new(program().expect("a browser"));
        command
            .args([
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--hide-scrollbars",
                "--force-color-profile=srgb",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (read, write) = (its_orders.as_raw_fd(), its_answers.as_raw_fd());
        // SAFETY: between fork and exec only system calls are made, none of which allocates. Both descriptors live until
        // the spawn is over; they are first moved out of the way of 3 and 4, where the browser looks for them.
        unsafe {
            command.pre_exec(move || {
                let high = [read, write].map(|fd| libc::fcntl(fd, libc::F_DUPFD, 10));
                if high[0] < 0 || high[1] < 0 || libc::dup2(high[0], 3) < 0 || libc::dup2(high[1], 4) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("the browser runs");
        drop((its_orders, its_answers));
        let (tell, heard) = channel();
        let mut reader = answers;
        std::thread::spawn(move || {
            let (mut bytes, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
            while let Ok(read @ 1..) = reader.read(&mut chunk) {
                bytes.extend_from_slice(&chunk[..read]);
                while let Some(end) = bytes.iter().position(|b| *b == 0) {
                    let message: Vec<u8> = bytes.drain(..=end).collect();
                    let value = serde_json::from_slice(&message[..end]).expect("the browser speaks JSON");
                    if tell.send(value).is_err() {
                        return;
                    }
                }
            }
        });
        let mut browser = Self {
            child,
            orders: File::from(std::os::fd::OwnedFd::from(orders)),
            answers: heard,
            session: String::new(),
            number: 0,
            faults: Vec::new(),
            asked: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", target);
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Asks the browser for something, and waits for its answer.
    ///
    /// # Panics
    /// When it refuses, or does not answer.
    #[track_caller]
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.orders.write_all(&bytes).expect("the browser listens");
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let answer = match self.answers.recv_timeout(left) {
                Ok(answer) => answer,
                Err(why) => panic!(
                    "the browser does not answer {method} ({why}); faults: {:#?}",
                    self.faults
                ),
            };
            if answer["id"] == json!(self.number) {
                assert!(answer.get("error").is_none(), "{method}: {answer:#}");
                return answer["result"].clone();
            }
            self.hear(&answer);
        }
    }

    fn hear(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => self.faults.push(parameters["exceptionDetails"].to_string()),
            "Log.entryAdded" if parameters["entry"]["level"] == "error" => {
                self.faults.push(parameters["entry"].to_string());
            }
            "Runtime.consoleAPICalled" if parameters["type"] == "error" => {
                self.faults.push(parameters["args"].to_string())
            }
            "Network.requestWillBeSent" => {
                let address = parameters["request"]["url"].as_str().unwrap_or_default();
                self.asked.push(address.to_owned());
            }
            _ => {}
        }
    }

    /// A screen of this size, in the light or in the dark.
    pub fn screen(&mut self, width: u32, height: u32, is_dark: bool) {
        let is_phone = width < 600;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme },
                              { "name": "prefers-reduced-motion", "value": "reduce" }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Opens a page, and forgets what went wrong on others.
    pub fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({ "url": "about:blank" }));
        self.faults.clear();
        self.asked.clear();
        self.call("Page.navigate", json!({ "url": address }));
    }

    /// What this script says.
    ///
    /// # Panics
    /// When it throws.
    #[track_caller]
    pub fn value(&mut self, script: &str) -> Value {
        let parameters = json!({ "expression": script, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer.get("exceptionDetails").is_none(), "{script}: {answer:#}");
        answer["result"]["value"].clone()
    }

    /// The text that this script says.
    #[track_caller]
    pub fn text(&mut self, script: &str) -> String {
        self.value(script).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until this script says true.
    ///
    /// # Panics
    /// When it does not within [`PATIENCE`].
    #[track_caller]
    pub fn wait(&mut self, script: &str) {
        let until = Instant::now() + PATIENCE;
        // Nothing announces what a script has drawn but the page itself: it is asked after every picture.
        let ask = format!(
            "new Promise(done => {{ let tries = 0; const look = () => {{ let so = false; try {{ so = Boolean({script}); }} catch {{ so = false; }} \
             if (so || ++tries > 40) done(so); else setTimeout(look, 25); }}; look(); }})"
        );
        while self.value(&ask) != json!(true) {
            if Instant::now() >= until {
                let text = self.text("document.body ? document.body.innerText.slice(0, 3000) : 'no page'");
                panic!(
                    "waited in vain for {script}; faults {:#?}; the page:\n{text}",
                    self.faults
                );
            }
        }
    }

    /// Presses a key, as a person does.
    pub fn press(&mut self, key: &str) {
        let mut parameters = json!({ "type": "keyDown", "key": key });
        if key.chars().count() == 1 {
            parameters["text"] = json!(key);
        }
        if key == "Enter" {
            parameters["text"] = json!("\r");
        }
        if let Some(code) = [
            ("Tab", 9),
            ("Enter", 13),
            ("Escape", 27),
            ("ArrowLeft", 37),
            ("ArrowUp", 38),
            ("ArrowRight", 39),
            ("ArrowDown", 40),
        ]
        .into_iter()
        .find(|(name, _)| *name == key)
        {
            parameters["windowsVirtualKeyCode"] = json!(code.1);
        }
        self.call("Input.dispatchKeyEvent", parameters);
        self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key }));
    }

    /// A picture of the screen, as PNG; `whole`: of the page below it, too.
    pub fn picture(&mut self, whole: bool) -> Vec<u8> {
        let mut parameters = json!({ "format": "png", "captureBeyondViewport": whole });
        if whole {
            let size = self.call("Page.getLayoutMetrics", json!({}))["cssContentSize"].clone();
            parameters["clip"] =
                json!({ "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1 });
        }
        let answer = self.call("Page.captureScreenshot", parameters);
        base64(answer["data"].as_str().expect("a picture"))
    }

    /// Holds the page to have had no fault, and to have asked nobody but `origin`.
    ///
    /// # Panics
    /// When it had one, or did.
    #[track_caller]
    pub fn assert_clean(&mut self, origin: &str) {
        // What was told before is heard before the answer.
        self.value("1");
        assert!(self.faults.is_empty(), "{:#?}", self.faults);
        let is_own = |address: &&String| {
            address.starts_with(origin) || address.starts_with("data:,") || *address == "about:blank"
        };
        let foreign: Vec<_> = self.asked.iter().filter(|a| !is_own(a)).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // An ended child is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Base64 as the browser writes it.
fn base64(text: &str) -> Vec<u8> {
    let digit = |b: u8| match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for b in text.bytes().filter(|b| *b != b'=') {
        bits = bits << 6 | u32::from(digit(b));
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
