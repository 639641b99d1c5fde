//! Sessions and loops on small graphs: every element type, exact alternation of state, the same bytes every time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Shape, Tensor, WORKING_OPSET, proto::TensorProto};
use dendrite_runtime::{Device, Error, Loop, Optimization, Session, SessionOptions, StateSlot};

fn options() -> SessionOptions {
    SessionOptions { threads: 2, ..Default::default() }
}

fn session(graph: &Graph) -> Session {
    Session::from_graph(graph, &options()).unwrap()
}

/// y = Identity(x) for any type.
fn identity(ty: ElementType, shape: Shape) -> Graph {
    let mut graph = Graph::new("identity", 21);
    let x = graph.add_input("x", ty, shape.clone());
    let y = graph.op("Identity", "y", &[x], Attributes::new());
    graph.set_type(y, Some(ty), Some(shape));
    graph.outputs.push(y);
    graph
}

#[test]
fn every_element_type_goes_through() {
    use ElementType::*;
    let numeric = [Float, Double, Float16, Bfloat16, Uint8, Int8, Uint16, Int16, Uint32, Int32, Uint64, Int64, Bool];
    for ty in numeric {
        let tensor = if ty == Bool {
            Tensor::new(ty, vec![2, 3], vec![0u8, 1, 1, 0, 1, 0]).unwrap()
        } else {
            let bytes: Vec<u8> = (0..ty.byte_len(6).unwrap()).map(|i| (i * 37 % 251) as u8).collect();
            Tensor::new(ty, vec![2, 3], bytes).unwrap()
        };
        let graph = identity(ty, Shape(vec![Dim::Symbol("batch".into()), Dim::Known(3)]));
        let out = session(&graph).run(&[("x", &tensor)]).unwrap();
        assert_eq!(out, [("y".to_owned(), tensor)], "{ty}");
    }
}

#[test]
fn strings_scalars_and_empty_tensors_go_through() {
    let proto = TensorProto {
        dims: vec![2],
        data_type: Some(ElementType::String as i32),
        string_data: vec!["a".into(), "zwei µ".into()],
        ..Default::default()
    };
    let strings = Tensor::from_proto(&proto).unwrap();
    let out = session(&identity(ElementType::String, Shape::known(&[2]))).run(&[("x", &strings)]).unwrap();
    assert_eq!(out[0].1, strings);

    let scalar = Tensor::scalar(ElementType::Float, 2.5);
    let out = session(&identity(ElementType::Float, Shape::known(&[]))).run(&[("x", &scalar)]).unwrap();
    assert_eq!(out[0].1, scalar);

    let empty = Tensor::from_f32(&[0, 3], &[]);
    let graph = identity(ElementType::Float, Shape(vec![Dim::Symbol("n".into()), Dim::Known(3)]));
    assert_eq!(session(&graph).run(&[("x", &empty)]).unwrap()[0].1, empty);
}

#[test]
fn ports_say_type_and_shape() {
    let graph = identity(ElementType::Float, Shape(vec![Dim::Symbol("batch".into()), Dim::Known(3)]));
    let session = session(&graph);
    assert_eq!(session.device(), Device::Cpu);
    assert_eq!(session.inputs()[0].name, "x");
    assert_eq!(session.inputs()[0].element_type, Some(ElementType::Float));
    assert_eq!(session.inputs()[0].shape.as_ref().unwrap().to_string(), "[batch, 3]");
    assert_eq!(session.outputs()[0].name, "y");
}

#[test]
fn wrong_feeds_are_named() {
    let graph = identity(ElementType::Float, Shape(vec![Dim::Symbol("batch".into()), Dim::Known(3)]));
    let mut session = session(&graph);
    let missing = session.run(&[]).unwrap_err().to_string();
    assert_eq!(missing, "'x': the input is missing");
    let shape = session.run(&[("x", &Tensor::from_f32(&[2, 4], &[0.0; 8]))]).unwrap_err().to_string();
    assert_eq!(shape, "'x': takes shape [batch, 3], not [2, 4]");
    let ty = session.run(&[("x", &Tensor::from_i64(&[1, 3], &[0; 3]))]).unwrap_err().to_string();
    assert_eq!(ty, "'x': takes float32, not int64");
}

#[test]
fn a_broken_model_is_an_error() {
    assert!(matches!(Session::from_bytes(b"not a model", &options()), Err(Error::Load { .. })));
    assert!(matches!(Session::from_file("nowhere.onnx".as_ref(), &options()), Err(Error::Load { .. })));
}

#[test]
fn a_missing_device_is_an_error() {
    let graph = identity(ElementType::Float, Shape::known(&[1]));
    match Session::from_graph(&graph, &SessionOptions { device: Device::Cuda(93), ..options() }) {
        Err(e @ Error::Device { .. }) => assert!(e.hint().unwrap().contains("install --gpu")),
        Err(e) => panic!("{e}"),
        Ok(session) => panic!("runs on {}", session.device()),
    }
}

/// count' = count + one * gain, sum' = sum + count, with sum read after count was written in any order of nodes; a slot
/// that passes its value on; and y = count as a fetch.
fn counter() -> Graph {
    let mut graph = Graph::new("counter", WORKING_OPSET);
    let f = ElementType::Float;
    let count = graph.add_input("count", f, Shape::known(&[3]));
    let sum = graph.add_input("sum", f, Shape::known(&[3]));
    let kept = graph.add_input("kept", f, Shape::known(&[3]));
    let gain = graph.add_input("gain", f, Shape::known(&[]));
    let count_next = graph.op("Add", "count_next", &[count, gain], Attributes::new());
    let sum_next = graph.op("Add", "sum_next", &[sum, count], Attributes::new());
    let kept_next = graph.op("Identity", "kept_next", &[kept], Attributes::new());
    let y = graph.op("Identity", "y", &[count], Attributes::new());
    for v in [count_next, sum_next, kept_next, y] {
        graph.set_type(v, Some(f), Some(Shape::known(&[3])));
        graph.outputs.push(v);
    }
    graph
}

fn counter_loop() -> Loop {
    let slot = |input: &str, initial: &[f32]| StateSlot {
        input: input.into(),
        output: format!("{input}_next"),
        initial: Tensor::from_f32(&[3], initial),
    };
    let state = vec![slot("count", &[0.0, 10.0, 20.0]), slot("sum", &[0.0; 3]), slot("kept", &[7.0, 8.0, 9.0])];
    let feeds = [("gain".to_owned(), ElementType::Float, vec![])];
    let fetches = [("y".to_owned(), ElementType::Float, vec![3])];
    Loop::new(session(&counter()), state, &feeds, &fetches).unwrap()
}

#[test]
fn the_loop_counts_its_steps_exactly() {
    let mut steps = counter_loop();
    steps.write_f32("gain", &[1.0]).unwrap();
    let mut y = Vec::new();
    let mut sum = 0.0;
    for step in 0..1001 {
        steps.step().unwrap();
        steps.read_f32("y", &mut y).unwrap();
        assert_eq!(y, [step as f32, 10.0 + step as f32, 20.0 + step as f32]);
        sum += step as f32;
        if step % 100 == 7 {
            assert_eq!(steps.state().unwrap()[1].to_f32().unwrap()[0], sum);
        }
    }
    let state = steps.state().unwrap();
    assert_eq!(state[0].to_f32().unwrap(), [1001.0, 1011.0, 1021.0]);
    assert_eq!(state[1].to_f32().unwrap()[0], 500_500.0);
    assert_eq!(state[2].to_f32().unwrap(), [7.0, 8.0, 9.0]);
    assert_eq!(steps.read("y").unwrap(), Tensor::from_f32(&[3], &[1000.0, 1010.0, 1020.0]));
}

#[test]
fn state_can_be_replaced_between_any_two_steps() {
    let mut steps = counter_loop();
    steps.write("gain", &2.0f32.to_le_bytes()).unwrap();
    for k in 0..5 {
        let fresh: Vec<Tensor> = [k as f32, 1.0, 2.0].iter().map(|v| Tensor::from_f32(&[3], &[*v; 3])).collect();
        steps.set_state(&fresh).unwrap();
        assert_eq!(steps.state().unwrap(), fresh);
        for _ in 0..k {
            steps.step().unwrap();
        }
        assert_eq!(steps.state().unwrap()[0].to_f32().unwrap(), [k as f32 + 2.0 * k as f32; 3]);
    }
    assert!(steps.set_state(&[]).is_err());
    assert!(steps.write_f32("gain", &[1.0, 2.0]).is_err());
    assert!(steps.write_i64("gain", &[1]).is_err());
    assert!(steps.write_f32("count", &[1.0]).is_err());
    assert!(steps.read_f32("sum_next", &mut Vec::new()).is_err());
}

#[test]
fn a_loop_refuses_what_does_not_fit() {
    let slot = |input: &str, output: &str, n: usize| StateSlot {
        input: input.into(),
        output: output.into(),
        initial: Tensor::from_f32(&[n], &vec![0.0; n]),
    };
    let feed = |name: &str| (name.to_owned(), ElementType::Float, if name == "gain" { vec![] } else { vec![3] });
    let make = |state: Vec<StateSlot>, feeds: &[&str]| {
        let feeds: Vec<_> = feeds.iter().map(|n| feed(n)).collect();
        Loop::new(session(&counter()), state, &feeds, &[]).map(|_| ()).map_err(|e| e.to_string())
    };
    let all = ["count", "sum", "kept", "gain"];
    assert_eq!(make(vec![], &all), Ok(()));
    assert_eq!(make(vec![], &all[1..]), Err("'count': the input is neither state nor feed".into()));
    assert_eq!(make(vec![slot("count", "count_next", 3)], &all), Err("'count': bound twice".into()));
    assert_eq!(make(vec![slot("count", "count_next", 4)], &all[1..]), Err("'count': takes shape [3], not [4]".into()));
    assert_eq!(make(vec![slot("count", "nothing", 3)], &all[1..]), Err("'nothing': the graph has no such port".into()));
}

#[test]
fn a_terminated_loop_keeps_its_state() {
    let mut steps = counter_loop();
    steps.write_f32("gain", &[1.0]).unwrap();
    steps.step().unwrap();
    let before = steps.state().unwrap();
    let stop = steps.terminator();
    std::thread::spawn(move || stop.terminate()).join().unwrap();
    assert!(matches!(steps.step(), Err(Error::Interrupted)));
    assert_eq!(steps.state().unwrap(), before);
}

/// A convolution, a product, a reduction and an exponential: what a step is made of.
fn mixed() -> Graph {
    let mut graph = Graph::new("mixed", WORKING_OPSET);
    let f = ElementType::Float;
    let wave = |n: usize| (0..n).map(|i| ((i * 7919 % 1013) as f32 / 500.0 - 1.0).sin()).collect::<Vec<_>>();
    let x = graph.add_input(
        "x",
        f,
        Shape(vec![Dim::Symbol("batch".into()), Dim::Known(3), Dim::Known(17), Dim::Known(17)]),
    );
    let w = graph.add_constant("w", Tensor::from_f32(&[8, 3, 3, 3], &wave(216)));
    let conv = graph.op("Conv", "conv", &[x, w], Attributes::new());
    let flat = graph.op("Flatten", "flat", &[conv], Attributes::new());
    let m = graph.add_constant(
        "m",
        Tensor::from_f32(&[1800, 31], &wave(1800 * 31).iter().map(|v| v / 100.0).collect::<Vec<_>>()),
    );
    let product = graph.op("MatMul", "product", &[flat, m], Attributes::new());
    let soft = graph.op("Softmax", "soft", &[product], Attributes::new());
    graph.set_type(soft, Some(f), Some(Shape(vec![Dim::Symbol("batch".into()), Dim::Known(31)])));
    graph.outputs.push(soft);
    graph
}

#[test]
fn twenty_runs_give_the_same_bytes() {
    let x: Vec<f32> = (0..5 * 3 * 17 * 17).map(|i| ((i * 31 % 997) as f32 / 300.0).cos()).collect();
    let x = Tensor::from_f32(&[5, 3, 17, 17], &x);
    let graph = mixed();
    let mut reference = None;
    for threads in [1, 2] {
        for spinning in [false, true] {
            let mut session =
                Session::from_graph(&graph, &SessionOptions { threads, spinning, ..Default::default() }).unwrap();
            for _ in 0..20 {
                let out = session.run(&[("x", &x)]).unwrap().remove(0).1;
                assert_eq!(*reference.get_or_insert_with(|| out.clone()), out);
            }
        }
    }
    for optimization in [Optimization::Off, Optimization::Basic, Optimization::Extended] {
        let mut session = Session::from_graph(&graph, &SessionOptions { optimization, ..options() }).unwrap();
        let out = session.run(&[("x", &x)]).unwrap().remove(0).1.to_f32().unwrap();
        let all = reference.as_ref().unwrap().to_f32().unwrap();
        assert!(out.iter().zip(&all).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}

#[test]
fn a_step_under_way_ends_when_told_to() {
    const N: usize = 768;
    let mut graph = Graph::new("long", WORKING_OPSET);
    let f = ElementType::Float;
    let m = graph.add_input("m", f, Shape::known(&[N, N]));
    let mut h = m;
    for i in 0..400 {
        h = graph.op("MatMul", &format!("h{i}"), &[h, m], Attributes::new());
    }
    let next = graph.op("Tanh", "m_next", &[h], Attributes::new());
    graph.set_type(next, Some(f), Some(Shape::known(&[N, N])));
    graph.outputs.push(next);
    let initial = Tensor::filled(f, &[N, N], 0.5);
    let slot = StateSlot { input: "m".into(), output: "m_next".into(), initial: initial.clone() };
    let mut steps = Loop::new(session(&graph), vec![slot], &[], &[]).unwrap();
    let stop = steps.terminator();
    let alarm = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        stop.terminate();
        std::time::Instant::now()
    });
    let result = steps.step();
    let ended = std::time::Instant::now();
    let told = alarm.join().unwrap();
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    assert!(ended.saturating_duration_since(told).as_secs_f64() < 2.0);
    assert_eq!(steps.state().unwrap(), [initial]);
}

#[test]
fn nothing_is_reported_to_anyone() {
    session(&identity(ElementType::Float, Shape::known(&[1])));
    assert!(std::env::var_os("ORT_DISABLE_TELEMETRY").is_some());
}

#[test]
fn a_loop_reads_the_state_of_another() {
    let mut lender = counter_loop();
    lender.write_f32("gain", &[1.0]).unwrap();
    let mut graph = Graph::new("double", WORKING_OPSET);
    let count = graph.add_input("count", ElementType::Float, Shape::known(&[3]));
    let twice = graph.op("Add", "twice", &[count, count], Attributes::new());
    graph.set_type(twice, Some(ElementType::Float), Some(Shape::known(&[3])));
    graph.outputs.push(twice);
    let port = |name: &str| (name.to_owned(), ElementType::Float, vec![3]);
    let mut borrower = Loop::borrowing(session(&graph), vec![], &[port("count")], &[], &[port("twice")]).unwrap();
    let read = |borrower: &mut Loop, lender: &Loop| {
        borrower.borrow_state(lender).unwrap();
        borrower.step_and_release().unwrap();
        borrower.read("twice").unwrap().to_f32().unwrap()
    };
    assert_eq!(read(&mut borrower, &lender), [0.0, 20.0, 40.0]);
    for step in 1..4 {
        lender.step().unwrap();
        let step = step as f32;
        assert_eq!(read(&mut borrower, &lender), [2.0 * step, 20.0 + 2.0 * step, 40.0 + 2.0 * step]);
    }
    lender.reset().unwrap();
    assert_eq!(read(&mut borrower, &lender), [0.0; 3]);
    assert_eq!(lender.state().unwrap()[2].to_f32().unwrap(), [0.0; 3]);
    let mut other = Loop::borrowing(session(&graph), vec![], &[port("count")], &[], &[port("twice")]).unwrap();
    let unknown = other.borrow_state(&borrower).unwrap_err().to_string();
    assert!(unknown.contains("'count': the other loop has no such state"), "{unknown}");
}
