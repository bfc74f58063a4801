// SPDX-License-Identifier: Apache-2.0
// stuck_rust: threads that wait by Rust's standard library. The argument names the case.
// Threads named "stuck" are blocked for ever; "fine" ones are not.
use std::any::Any;
use std::io::Read;
use std::sync::{mpsc, Arc, Barrier, Condvar, Mutex, Once, RwLock};
use std::thread;

type Kept = Vec<Box<dyn Any + Send>>;

fn named(name: &str, f: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name(name.into()).spawn(f).unwrap();
}

fn await_flag(p: Arc<(Mutex<bool>, Condvar)>) {
    let mut full = p.0.lock().unwrap();
    while !*full {
        full = p.1.wait(full).unwrap();
    }
}

fn deadlock() {
    let locks = [Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0))];
    let both = Arc::new(Barrier::new(2));
    for i in 0..2 {
        let (first, second) = (locks[i].clone(), locks[1 - i].clone());
        let both = both.clone();
        named("stuck", move || {
            let _first = first.lock().unwrap();
            both.wait();
            let _second = second.lock().unwrap();
        });
    }
}

fn once() {
    static ONCE: Once = Once::new();
    for _ in 0..2 {
        named("fine", || {
            ONCE.call_once(|| {
                let p = (Mutex::new(()), Condvar::new());
                let hour = std::time::Duration::from_secs(3600);
                let _ = p.1.wait_timeout(p.0.lock().unwrap(), hour);
            })
        });
    }
}

fn start(case: &str) -> Kept {
    let mut kept: Kept = vec![];
    match case {
        "condvar" | "condvar-known" => {
            let p = Arc::new((Mutex::new(false), Condvar::new()));
            let known = case.ends_with("known");
            if known {
                kept.push(Box::new(p.clone()));
            }
            named(if known { "fine" } else { "stuck" }, move || await_flag(p));
        }
        "deadlock" => deadlock(),
        "rwlock" => {
            let lock = Arc::new(RwLock::new(0));
            std::mem::forget(lock.write().unwrap());
            named("stuck", move || drop(lock.read()));
        }
        "barrier" => {
            let both = Arc::new(Barrier::new(2));
            named("stuck", move || drop(both.wait()));
        }
        "join" => {
            let both = Arc::new(Barrier::new(2));
            let other = thread::Builder::new().name("stuck".into());
            let other = other.spawn(move || drop(both.wait())).unwrap();
            named("stuck", move || other.join().unwrap());
        }
        "park" => named("stuck", || loop {
            thread::park()
        }),
        "channel" => {
            let (send, receive) = mpsc::channel::<i32>();
            std::mem::forget(send);
            named("stuck", move || drop(receive.recv()));
        }
        "rendezvous" => {
            let (send, receive) = mpsc::sync_channel::<i32>(0);
            std::mem::forget(receive);
            named("stuck", move || drop(send.send(1)));
        }
        "mutex" => {
            let lock = Arc::new(Mutex::new(0));
            std::mem::forget(lock.lock().unwrap());
            named("stuck", move || drop(lock.lock()));
        }
        "channel-known" => {
            let (send, receive) = mpsc::channel::<i32>();
            kept.push(Box::new(send));
            named("fine", move || {
                let _ = receive.recv();
            });
        }
        "park-known" => {
            let t = thread::Builder::new().name("fine".into());
            kept.push(Box::new(t.spawn(|| loop {
                thread::park();
            })));
        }
        "once" => once(),
        _ => panic!("no such case"),
    }
    kept
}

extern "C" {
    fn wait_until_all_wait();
}

fn main() {
    let case = std::env::args().nth(1).unwrap();
    // On a stack of its own, where old pointers may stand.
    let kept = thread::spawn(move || start(&case)).join().unwrap();
    unsafe { wait_until_all_wait() };
    println!("up");
    let _ = std::io::stdin().read(&mut [0]);
    drop(kept);
    std::process::exit(0);
}
