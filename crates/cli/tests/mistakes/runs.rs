//! Mistakes about what is written, and about going on.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use dendrite_onnx::Model;
use dendrite_runtime::SessionOptions;
use dendrite_trainer::{DataSet, Error, Event, Options, Preprocess, Run, grow};
use prost::Message;

use crate::{
    Mistake,
    make::{classes, edited, fixed, layers, network, weights},
    mistake,
    models::GROW,
};

pub(crate) fn mistakes(scratch: &Path) -> Vec<Mistake> {
    let checkpoint = interrupted(&scratch.join("interrupted"));
    let resume = |what: &str, more: &str| {
        mistake(what, &format!("{GROW} --resume{more}")).with("run/checkpoints/latest.safetensors", checkpoint.clone())
    };
    let other = edited(|model| {
        let graph = model.graph.as_mut().unwrap();
        graph.input[0].name = Some("features".to_owned());
        graph.node[0].input[0] = "features".to_owned();
    });
    vec![
        mistake("a folder that holds a run", GROW)
            .with("run/model.onnx", network())
            .with("run/summary.json", "{}")
            .with("run/events.jsonl", "{}\n"),
        mistake("a folder that holds an interrupted run", GROW)
            .with("run/checkpoints/latest.safetensors", checkpoint.clone()),
        mistake("a folder that holds a model of no run", "grow model.onnx --train train.npz --val val.npz -o ."),
        mistake("a folder that holds a plan of no run", GROW).with("run/plan.toml", "cycles = 1\n"),
        mistake(
            "a run folder that the shell did not expand",
            "grow model.onnx --train train.npz --val val.npz -o '~/d/run'",
        ),
        mistake("a file that the shell did not expand", "insert model.onnx -o '~/out.onnx'"),
        mistake("a run in place of its model", "evaluate done --data val.npz").with("done/model.onnx", network()),
        mistake("a folder of a run that was stopped at its end", GROW)
            .with("run/model.onnx", network())
            .with("run/events.jsonl", "{}\n")
            .with("run/checkpoints/latest.safetensors", checkpoint.clone()),
        mistake("a file in place of the run folder", GROW).with("run", "notes"),
        mistake("a run folder below a file", "grow model.onnx --train train.npz --val val.npz -o model.onnx/run"),
        resume("going on with another seed", " --seed 1"),
        resume("going on with other options", " --epochs 7"),
        resume("going on with other data", "").with("train.npz", classes(41)),
        resume("going on with test data that were not there", " --test test.npz").with("test.npz", classes(30)),
        resume("going on with another model", "")
            .with("model.onnx", edited(|m| m.producer_name = Some("another".to_owned()))),
        resume("going on with another plan", " --plan plan.toml")
            .with("plan.toml", "connect = \"neuron\"\ncycles = 1\n[[site]]\nname = \"h\"\ndendrites = 1\n"),
        resume("a checkpoint that is damaged", "")
            .with("run/checkpoints/latest.safetensors", checkpoint[..checkpoint.len() / 2].to_vec()),
        mistake("a summary that is damaged", &format!("{GROW} --resume"))
            .with("run/model.onnx", network())
            .with("run/summary.json", "{"),
        mistake("insertion into a folder that is not there", "insert model.onnx -o there/out.onnx"),
        mistake("insertion into a folder", "insert model.onnx -o there").with("there/", ""),
        mistake("insertion below a file", "insert model.onnx -o train.npz/out.onnx"),
        mistake("insertion into a damaged model", "insert model.onnx -o out.onnx")
            .with("model.onnx", edited(|m| m.graph.as_mut().unwrap().node[2].input[0] = "lost".to_owned())),
        mistake("insertion without an output", "insert model.onnx"),
        mistake("insertion into the model itself", "insert model.onnx -o ./model.onnx --force"),
        mistake("insertion over another file", "insert model.onnx -o train.py")
            .with("train.py", "print('hours of work')\n"),
        mistake("a comparison of models of other inputs", "compare model.onnx other.onnx").with("other.onnx", other),
        mistake("a comparison of models of other widths", "compare model.onnx other.onnx").with("other.onnx", wider()),
        mistake("a comparison with a file that is no model", "compare model.onnx train.npz"),
        mistake("a comparison with a damaged model", "compare model.onnx other.onnx")
            .with("other.onnx", edited(|m| m.ir_version = Some(99))),
        mistake("a difference from what is not there", "diff model.onnx modell.onnx"),
        mistake("a difference from a file that is no model", "diff model.onnx train.npz"),
        mistake("a difference of one model", "diff model.onnx"),
        mistake("a difference from a model whose weights are cut off", "diff model.onnx other.onnx").with(
            "other.onnx",
            edited(|m| {
                let w = &mut m.graph.as_mut().unwrap().initializer[0];
                w.raw_data = w.raw_data.take().map(|bytes| bytes.slice(..bytes.len() - 4));
            }),
        ),
        mistake("a check of what is not there", "check nowhere.onnx"),
        mistake("a demo below a file", "demo -o model.onnx/demo"),
        mistake("a demo in place of a file", "demo -o model.onnx"),
        mistake("a demo among data of the user", "demo -o ."),
    ]
}

/// A model of the same names whose input is wider.
fn wider() -> Vec<u8> {
    let mut model = layers();
    let graph = model.graph.as_mut().unwrap();
    graph.input[0] = fixed("x", &[4, 6]);
    graph.initializer[0] = weights(&[6, 5]).to_proto("w1");
    model.encode_to_vec()
}

/// The checkpoint of a run on the usual files that was stopped in its first phase: before, there is none.
fn interrupted(folder: &Path) -> Vec<u8> {
    fs::create_dir_all(folder).unwrap();
    let path = |name: &str| folder.join(name);
    fs::write(path("model.onnx"), network()).unwrap();
    fs::write(path("train.npz"), classes(40)).unwrap();
    fs::write(path("val.npz"), classes(20)).unwrap();
    let open = |name: &str| DataSet::open(path(name), &Preprocess::default()).unwrap();
    let (train, val) = (open("train.npz"), open("val.npz"));
    let interrupt = AtomicBool::new(false);
    let stopped = grow(&mut Run {
        model: &Model::open(path("model.onnx")).unwrap(),
        train: &train,
        val: &val,
        test: None,
        options: &Options::default(),
        plan: None,
        session: SessionOptions::default(),
        folder: &path("run"),
        resume: false,
        interrupt: &interrupt,
        observer: &mut |event| {
            if matches!(event, Event::PhaseStarted { .. }) {
                interrupt.store(true, Ordering::Relaxed);
            }
        },
        second_runtime: None,
    });
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    fs::read(path("run/checkpoints/latest.safetensors")).unwrap()
}
