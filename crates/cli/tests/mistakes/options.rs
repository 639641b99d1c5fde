//! Mistakes about options and commands.

use crate::{
    Mistake,
    make::{floats, loss_of_a_batch, normalised, npz, x},
    mistake,
    models::GROW,
};

pub(crate) fn mistakes() -> Vec<Mistake> {
    let mut all = usage();
    all.extend(values());
    all.extend(configuration());
    all.extend(plans());
    all.extend(others());
    all
}

/// Commands and options that are not there.
fn usage() -> Vec<Mistake> {
    vec![
        mistake("a misspelt command", "inspct model.onnx"),
        mistake("a command that does not exist", "train model.onnx"),
        mistake("a misspelt option", &format!("{GROW} --epoch 3")),
        mistake("an option that does not exist", &format!("{GROW} --frobnicate")),
        mistake("an option of another command", "inspect model.onnx --lr 0.1"),
        mistake("no model", "inspect"),
        mistake("no data", "grow model.onnx -o run"),
        mistake("no output folder", "grow model.onnx --train train.npz --val val.npz"),
        mistake("a value too many", "inspect model.onnx other.onnx"),
        mistake("an option without its value", &format!("{GROW} --lr")),
        mistake("validation by another name", "grow model.onnx --train train.npz --validation val.npz -o run"),
        mistake("data of evaluation by another name", "evaluate model.onnx --test val.npz"),
        mistake(
            "the model's output in place of a folder",
            "grow model.onnx --train train.npz --val val.npz --output run",
        ),
        mistake("the model's output in place of a file", "insert model.onnx --output out.onnx"),
        mistake("a file for a plan", "plan model.onnx -o plan.toml"),
        mistake("a plan and its options", &format!("{GROW} --plan p.toml --dendrites 2")),
        mistake("a plan and the sites it names", &format!("{GROW} --sites h --plan p.toml")),
        mistake("an option twice", &format!("{GROW} --lr 0.1 --lr 0.2")),
        mistake("quiet and verbose", &format!("{GROW} --quiet --verbose")),
    ]
}

/// Values that options do not take.
fn values() -> Vec<Mistake> {
    let grown = |what: &str, options: &str| mistake(what, &format!("{GROW} {options}"));
    vec![
        grown("a rate below 0", "--lr -1"),
        grown("a rate that is no number", "--lr abc"),
        grown("epochs that are no number", "--epochs x"),
        grown("no epoch", "--epochs 0"),
        grown("a negative number of dendrites", "--dendrites -1"),
        grown("a batch of 0", "--batch 0"),
        grown("a piece of a batch of 0", "--micro-batch 0"),
        grown("a batch in pieces for a loss of one number", "--micro-batch 4 --loss loss.onnx")
            .with("loss.onnx", loss_of_a_batch())
            .with("train.npz", npz(&[("x", x(40)), ("target", floats(&[40, 3], |i| i as f32))]))
            .with("val.npz", npz(&[("x", x(20)), ("target", floats(&[20, 3], |i| i as f32))])),
        grown("samples of an input that is not there", "--batch-axis z=1"),
        grown("samples on an axis that is not there", "--batch-axis x=2"),
        grown("samples on an axis that is no number", "--batch-axis x=last"),
        grown("classes on an axis that is not there", "--class-axis 2"),
        grown("classes on the axis of samples", "--class-axis=-2"),
        grown("sequences for a model of one class a row", "--loss ctc"),
        grown("errors of sequences where there are none", "--metric cer"),
        grown("a blank without sequences", "--blank 1"),
        grown("no thread", "--threads 0"),
        grown("a seed below 0", "--seed -1"),
        grown("a width of 0", "--width 0"),
        grown("a limit below the model", "--max-parameters x0.5"),
        grown("a limit of 10 parameters", "--max-parameters 10"),
        grown("a limit without room for a dendrite", "--max-parameters 44"),
        grown("a limit that is no number", "--max-parameters 2x"),
        grown("a pattern of sites that matches nothing", "--sites 'conv*'"),
        grown("a site that is almost named", "--sites Y"),
        grown("a pattern that is none", "--sites 'a[b'"),
        grown("every site excluded", "--exclude '*'"),
        grown("a method that does not exist", "--method gdd"),
        grown("an activation that does not exist", "--activation gelu"),
        grown("a connection that does not exist", "--connect full"),
        grown("an optimizer that does not exist", "--optimizer adam-w"),
        grown("a loss that does not exist", "--loss foo"),
        grown("a file of a loss that is not there", "--loss missing.onnx"),
        grown("a model in place of a loss", "--loss model.onnx"),
        grown("a loss of numbers for classes", "--loss mse"),
        grown("a metric that does not exist", "--metric top0"),
        grown("more candidates than classes", "--metric top5"),
        grown("a metric of numbers for classes", "--metric mae"),
        grown("a file of a metric that is not there", "--metric missing.onnx"),
        grown("a model in place of a metric", "--metric model.onnx"),
        grown("weights for other classes", "--class-weights 1,2"),
        grown("weights of classes that are words", "--class-weights one,two,three"),
        mistake("weights of classes for numbers", &format!("{GROW} --class-weights balanced"))
            .with("train.npz", npz(&[("x", x(40)), ("target", floats(&[40, 3], |i| i as f32))]))
            .with("val.npz", npz(&[("x", x(20)), ("target", floats(&[20, 3], |i| i as f32))])),
        grown("a smoothing of 1", "--label-smoothing 1"),
        grown("smoothing of numbers", "--label-smoothing 0.1")
            .with("train.npz", npz(&[("x", x(40)), ("target", floats(&[40, 3], |i| i as f32))]))
            .with("val.npz", npz(&[("x", x(20)), ("target", floats(&[20, 3], |i| i as f32))])),
        grown("a budget that is no time", "--budget soon"),
        grown("a budget of no time", "--budget 0s"),
        grown("checkpoints at no time", "--checkpoint-every often"),
        grown("a budget without a unit", "--budget 10"),
        grown("a control that does not exist", "--controls longer,deeper"),
        grown("all controls and one more", "--controls all,longer"),
        grown("the validation data as test", "--test val.npz"),
        grown("pixels of arrays", "--set preprocess.scale=0.1"),
        grown("a map of an input that is not there", "--map input=x"),
        grown("a map without =", "--map x"),
        grown("a map to an array that is not there", "--map x=features"),
        grown("a target that is not there", "--target label"),
        grown("a device without its library", "--device cuda"),
        grown("a device that does not exist", "--device tpu"),
        grown("weights to train that are not there", "--train-weights 'encoder*'"),
        grown("statistics to train that are not there", "--batch-norm train"),
        grown("statistics that are neither", "--batch-norm stored"),
        mistake("statistics whose scale does not train", &format!("{GROW} --batch-norm train --train-weights head"))
            .with("model.onnx", normalised()),
        mistake("statistics of a single sample", &format!("{GROW} --batch-norm train --batch 1"))
            .with("model.onnx", normalised()),
        grown("a shuffle that is neither", "--shuffle sometimes"),
        grown("every target ignored", "--ignore-index 0")
            .with("train.npz", npz(&[("x", x(40)), ("target", crate::make::integers(&[40], |_| 0))])),
    ]
}

/// Configuration files.
fn configuration() -> Vec<Mistake> {
    let file = |what: &str, text: &str| mistake(what, &format!("{GROW} --config my.toml")).with("my.toml", text);
    let set = |what: &str, setting: &str| mistake(what, &format!("{GROW} --set {setting}"));
    vec![
        mistake("a configuration that is not there", &format!("{GROW} --config my.toml")),
        mistake("a folder as a configuration", &format!("{GROW} --config conf")).with("conf/", ""),
        file("broken TOML", "lr = 0.1\nepochs = \n"),
        file("a misspelt key", "lr = 0.1\nepohcs = 30\n"),
        file("a key that does not exist", "frobnicate = true\n"),
        file("a flag's name in place of the key", "train-weights = \"head\"\n"),
        file("training data in the file", "train = \"train.npz\"\n"),
        file("validation data in the file", "val = \"val.npz\"\n"),
        file("test data in the file", "test = \"test.npz\"\n"),
        file("the run folder in the file", "output-folder = \"run\"\n"),
        file("an underscore in place of the hyphen", "weight_decay = 0.1\n"),
        file("a misspelt key in a table", "[preprocess]\nsclae = 0.5\n"),
        file("a value of another type", "epochs = \"many\"\n"),
        file("a word that is no choice", "method = \"hybird\"\n"),
        file("a negative number", "dendrites = -1\n"),
        file("a rate below 0 in the file", "lr = -0.1\n"),
        file("a batch of 0 in the file", "batch = 0\n"),
        file("a piece of a batch of 0 in the file", "micro-batch = 0\n"),
        file("a choice in a table that does not exist", "[preprocess]\nresize = \"squeeze\"\n"),
        file("a table in place of a value", "[lr]\nstart = 0.1\n"),
        file("smoothing beyond 1 in the file", "label-smoothing = 2\n"),
        file("a key twice", "lr = 0.1\nlr = 0.2\n"),
        mistake("a binary file as a configuration", &format!("{GROW} --config model.onnx")),
        set("a setting without =", "epochs"),
        set("a setting of a key that does not exist", "preproces.scale=1"),
        set("a misspelt setting", "preprocess.scal=1"),
        set("a setting of another type", "epochs=many"),
        set("a setting without a value", "lr="),
        set("a list without brackets", "preprocess.mean=0.5,0.5,0.5"),
        set("a word for a number of each channel", "preprocess.std=half"),
        file("a list of words for numbers", "[preprocess]\nmean = [\"a\"]\n"),
        set("mixing with classes", "augment.mix=0.2"),
        set("mirroring without images", "augment.flip=horizontal"),
        set("mirroring diagonally", "augment.flip=diagonal"),
        set("noise below 0", "augment.noise=-1"),
        set("a shift by more than the side", "augment.shift=1.5"),
        set("a range the wrong way round", "augment.gain=[2,1]"),
        set("changes of an input that is not there", "'augment.inputs=[\"y\"]'"),
    ]
}

/// Plans.
fn plans() -> Vec<Mistake> {
    let file = |what: &str, text: &str| mistake(what, &format!("{GROW} --plan plan.toml")).with("plan.toml", text);
    vec![
        mistake("a plan that is not there", &format!("{GROW} --plan plan.toml")),
        file("a broken plan", "connect = \"neuron\"\ncycles = three\n"),
        file("a plan that lacks something", "connect = \"neuron\"\n"),
        file("a misspelt key of a plan", "connect = \"neuron\"\ncycles = 1\n[[site]]\nname = \"h\"\ndendrite = 1\n"),
        file(
            "a plan for another model",
            "connect = \"neuron\"\ncycles = 1\n[[site]]\nname = \"conv1\"\ndendrites = 1\n",
        ),
        file(
            "a plan with no dendrite at a site",
            "connect = \"neuron\"\ncycles = 1\n[[site]]\nname = \"h\"\ndendrites = 0\n",
        ),
        file("a plan without a site", "connect = \"neuron\"\ncycles = 1\nsite = []\n"),
        file(
            "a site twice in a plan",
            "connect = \"layer\"\ncycles = 1\n[[site]]\nname = \"h\"\ndendrites = 1\n[[site]]\nname = \"h\"\ndendrites = 2\n",
        ),
        mistake("the configuration as a plan", &format!("{GROW} --plan my.toml")).with("my.toml", "lr = 0.1\n"),
    ]
}

/// Options of the other commands.
fn others() -> Vec<Mistake> {
    vec![
        mistake("a dimension that is not there", "inspect model.onnx --dim nothing=3"),
        mistake("a format of nothing", "inspect model.onnx --format csv"),
        mistake("a format that does not exist", "inspect model.onnx --layers --format html"),
        mistake("two formats", "inspect model.onnx --layers --format csv --json"),
        mistake("a dimension without its size", "inspect model.onnx --dim N"),
        mistake("a size that is none", "inspect model.onnx --dim N=many"),
        mistake("a size of 0", "inspect model.onnx --dim N=0"),
        mistake("a runtime that does not exist", "compare model.onnx model.onnx --runtime foo"),
        mistake("a tolerance that is none", "compare model.onnx model.onnx --tolerance -1"),
        mistake("no sample to compare", "compare model.onnx model.onnx --batch 0"),
        mistake("one model to compare", "compare model.onnx"),
        mistake("plans for sites that are not there", "plan model.onnx --sites 'conv*'"),
        mistake("a plan within too small a limit", "plan model.onnx --max-parameters 10"),
        mistake("a factor below 1 in insert", "insert model.onnx -o out.onnx --max-parameters x0.5"),
        mistake("a factor in insert that has no room", "insert model.onnx -o out.onnx --max-parameters x1.01"),
        mistake("dendrites at sites that are not there", "insert model.onnx -o out.onnx --sites 'conv*'"),
        mistake("a batch of 0 in evaluate", "evaluate model.onnx --data val.npz --batch 0"),
        mistake("an output to score that is not there", "evaluate model.onnx --data val.npz --output logits"),
        mistake("no data to evaluate", "evaluate model.onnx"),
        mistake("a metric that does not fit", "evaluate model.onnx --data val.npz --metric rmse"),
        mistake("a configuration of another form in plan", "plan model.onnx --set epohcs=1"),
        mistake("ORT_DYLIB_PATH that names nothing", GROW).set("ORT_DYLIB_PATH", "nowhere.so"),
        mistake("ORT_DYLIB_PATH that names something else", "compare model.onnx model.onnx")
            .set("ORT_DYLIB_PATH", "model.onnx"),
        mistake("ORT_DYLIB_PATH wrong, in status", "runtime status").set("ORT_DYLIB_PATH", "nowhere.so"),
        mistake("a part of runtime that does not exist", "runtime instal"),
    ]
}
