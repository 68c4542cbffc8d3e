//! Model files and the formats they name (S5, D1, K3): the shipped models, and every mistake by its own message.

use oda_consensus::ids::BlobRef;
use oda_ml::data::Batch;
use oda_ml::data::import::{self, Columns, Inputs, Rows, Scale};
use oda_ml::model_file::{self, Bundle, gain_provable_unat, samples_needed};
use oda_ml::{Dataset, MlError};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")
}

/// A linear model; `{architecture}` and `{data}` are replaced.
const MODEL: &str = r#"
name = "test"
seed = "test 1"
objective = "cross_entropy"
architecture = {architecture}
[data]
{data}
[training]
inner_steps = 1
batch = 1
lr_micro = 1
weight_decay_micro = 0
chunk = 64
keep_per_chunk = 8
feedback_milli = 0
outer_lr_milli = 1000
[judging]
shard_samples = 32
gate_samples = 32
screen_samples = 0
confirm_samples = 32
assigned_z_milli = 3000
harm_z_milli = 2330
adopt_z_milli = 2330
probe_divisor = 8
norm_cap_milli = 10000
least_work_milli = 700
copy_cosine_milli = 800
min_gain_unat = 100
max_delta_bytes = 100000
max_claims = 16
[timing]
commit_blocks = 4
linger_blocks = 2
reveal_blocks = 6
"#;

const LINEAR: &str = "{ linear = { inputs = 2, classes = 3 } }";
const BYTES: &str = "{ transformer = { context = 8, width = 8, layers = 1, heads = 1 } }";
const CUT: &str = "eval_samples = 64\ntest_samples = 10";

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn model(&self, architecture: &str, data: &str) -> Result<Bundle, MlError> {
        let text = MODEL.replace("{architecture}", architecture).replace("{data}", data);
        model_file::load(&self.put("m.toml", text), None)
    }

    fn error(&self, architecture: &str, data: &str) -> String {
        self.model(architecture, data).err().map_or_else(|| panic!("accepted: {data}"), |e| e.to_string())
    }
}

/// `n` rows `x,y,kind`; x counts, y is constant, kinds take turns.
fn csv(n: usize) -> String {
    let rows = (0..n).map(|i| format!("{},7,{}\n", i as f64 / 2.0, ["ant", "bee", "cow"][i % 3]));
    std::iter::once("x,y,kind\n".to_string()).chain(rows).collect()
}

/// The table of [`csv`] as Parquet, in row groups of 50.
fn parquet(n: usize) -> Vec<u8> {
    let schema = "message t { required double x; optional double y; required binary kind (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for from in (0..n).step_by(50) {
        let rows: Vec<usize> = (from..n.min(from + 50)).collect();
        let mut group = file.next_row_group().unwrap();
        let x: Vec<f64> = rows.iter().map(|i| *i as f64 / 2.0).collect();
        let kinds: Vec<ByteArray> = rows.iter().map(|i| ["ant", "bee", "cow"][i % 3].into()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&x, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&vec![7.0; x.len()], Some(&vec![1; x.len()]), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&kinds, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    file.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

fn blob<'a>(b: &'a Bundle, of: &BlobRef) -> &'a Vec<u8> {
    b.blobs.iter().find(|bytes| BlobRef::of(bytes) == *of).expect("every blob is in the bundle")
}

fn reals(b: &Bundle, split: oda_consensus::manifest::Split) -> (Vec<f32>, Vec<u8>) {
    let bytes = blob(b, &split.blob).clone();
    let data = Dataset::from_bytes(bytes, b.manifest.architecture.sample(), split.samples).unwrap();
    match data.batch(&(0..split.samples).collect::<Vec<_>>()).unwrap() {
        Batch::Reals { inputs, classes } => (inputs, classes),
        other => panic!("{other:?}"),
    }
}

#[test] // D1, S5: every shipped model loads, its blobs are the ones it names, and twice is the same model
fn shipped_models() {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(models()).unwrap() {
        let path = entry.unwrap().path();
        let b = model_file::load(&path, None).unwrap();
        let promised: BTreeSet<BlobRef> = b.manifest.blobs().into_iter().collect();
        let brought: Vec<BlobRef> = b.blobs.iter().map(|bytes| BlobRef::of(bytes)).collect();
        assert_eq!(promised.len(), brought.len(), "{}", path.display());
        assert_eq!(promised, brought.iter().copied().collect());
        assert_eq!(*brought.last().unwrap(), b.manifest.initial_head);
        assert_eq!(model_file::load(&path, None).unwrap().manifest.id(), b.manifest.id());
        let report = b.report();
        assert!(report.contains(&b.manifest.id().to_string()) && report.contains("confirm samples"), "{report}");
        println!("{report}");
        found.insert((b.manifest.name.clone(), b.manifest.parameters()));
    }
    let expected = [
        ("bytes", 136_960),
        ("bytes-1m", 1_065_344),
        ("fashion-cnn", 26_698),
        ("fashion-mnist", 101_770),
        ("iris", 15),
    ];
    assert_eq!(found, expected.map(|(name, n)| (name.to_string(), n)).into_iter().collect());
}

#[test] // one source, three formats: the network sees the same bytes
fn csv_gzip_and_parquet_give_one_blob() {
    let here = Place::new();
    here.put("t.csv", csv(140));
    here.put("t.csv.gz", gzip(csv(140).as_bytes()));
    here.put("t.parquet", parquet(140));
    let id = |source: &str| here.model(LINEAR, &format!("source = {source}\n{CUT}")).unwrap().manifest.id();
    let one = id(r#"{ csv = "t.csv", label = "kind" }"#);
    assert_eq!(id(r#"{ csv = "t.csv.gz", label = "kind" }"#), one);
    assert_eq!(id(r#"{ parquet = "t.parquet", label = "kind" }"#), one);
    assert_eq!(id(r#"{ csv = "t.csv", label = "kind", features = ["x", "y"], classes = ["ant", "bee", "cow"] }"#), one);
    assert_ne!(id(r#"{ csv = "t.csv", label = "kind", features = ["y", "x"] }"#), one);
    assert_ne!(id(r#"{ csv = "t.csv", label = "kind", classes = ["cow", "ant", "bee"] }"#), one);
    assert_ne!(id(r#"{ csv = "t.csv", label = "kind", samples = 139 }"#), one);
}

#[test] // a Parquet file of another implementation (pyarrow: snappy, dictionaries, optional columns)
fn a_foreign_parquet_file_is_the_same_model() {
    let here = Place::new();
    let folder = models().join("../data/iris").canonicalize().unwrap();
    let text = std::fs::read_to_string(models().join("iris.toml")).unwrap();
    let with = |source: &str, file: &str| {
        let own = format!("{source} = \"{}\"", folder.join(file).display());
        let path = here.put("iris.toml", text.replace("csv = \"../data/iris/iris.csv\"", &own));
        model_file::load(&path, None).unwrap().manifest.id()
    };
    assert_eq!(with("parquet", "iris.parquet"), with("csv", "iris.csv"));
    assert_eq!(with("csv", "iris.csv"), model_file::load(&models().join("iris.toml"), None).unwrap().manifest.id());
}

#[test] // no row is in two parts, and guards hold what they say
fn splits_are_disjoint_and_guards_select() {
    let here = Place::new();
    here.put("t.csv", csv(140));
    here.put("rare.csv", "kind,y,x\nbee,1,2\nant,3,4\n");
    let guards = r#"guards = { bees = { class = "bee", samples = 9 }, cows = { class = 2, from = "test" },
        own = { csv = "rare.csv", label = "kind" } }"#
        .replace('\n', "");
    let data = format!("source = {{ csv = \"t.csv\", label = \"kind\" }}\n{CUT}\n{guards}");
    let b = here.model(LINEAR, &data).unwrap();
    let d = &b.manifest.data;
    assert_eq!([d.train.samples, d.eval.samples, d.test.samples], [66, 64, 10]);
    let column = |split| -> Vec<u32> { reals(&b, split).0.chunks(2).map(|row| row[0].to_bits()).collect() };
    let all: Vec<u32> = [d.train, d.eval, d.test].into_iter().flat_map(column).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 140);
    let names: Vec<&str> = d.guards.iter().map(|g| g.name.as_str()).collect();
    assert_eq!(names, ["bees", "cows", "own"]);
    let within = |part: oda_consensus::manifest::Split, guard: usize| {
        let part: BTreeSet<u32> = column(part).into_iter().collect();
        column(d.guards[guard].split).iter().all(|x| part.contains(x))
    };
    assert!(within(d.eval, 0) && within(d.test, 1) && !within(d.test, 0));
    assert_eq!(reals(&b, d.guards[0].split).1, vec![1; 9]);
    assert!(reals(&b, d.guards[1].split).1.iter().all(|c| *c == 2));
    assert_eq!(reals(&b, d.guards[2].split).1, [1, 0]);
    // a file with other column order is brought to the order of the first
    let (own, first) = (reals(&b, d.guards[2].split).0, column(d.train));
    assert!(own[0] < own[2] && own[1] == 0.0 && !first.is_empty());
}

#[test] // evaluation rows must not move the scale
fn the_scale_is_the_training_parts() {
    let here = Place::new();
    let table = |rows: &[f64]| -> String {
        let lines = rows.iter().enumerate().map(|(i, x)| format!("{x},5,{}\n", i % 3));
        std::iter::once("x,y,kind\n".to_string()).chain(lines).collect()
    };
    let train: Vec<f64> = (0..64).map(|i| f64::from(i % 2)).collect(); // mean 0.5, deviation 0.5
    here.put("train.csv", table(&train));
    here.put("far.csv", table(&vec![1000.5; 64]));
    let of = |name: &str| format!("{{ csv = \"{name}.csv\", label = \"kind\" }}");
    let data = format!("train = {}\neval = {}\ntest = {}", of("train"), of("far"), of("train"));
    let b = here.model(LINEAR, &data).unwrap();
    let d = &b.manifest.data;
    assert_eq!(reals(&b, d.train).0[..4], [-1.0, 0.0, 1.0, 0.0]); // the constant column is zero
    assert_eq!(reals(&b, d.eval).0[..2], [2000.0, 0.0]);
    assert_eq!(d.train, d.test);
    assert_eq!(b.blobs.len(), 3); // the same blob is kept once
}

#[test] // images stay bytes
fn bytes_have_no_scale() {
    let mut rows = Rows { features: 2, inputs: Inputs::Bytes(vec![1, 2, 3, 255]), classes: vec![0, 1] };
    let before = rows.clone();
    Scale::of(&rows).apply(&mut rows);
    assert_eq!(rows, before);
}

#[test] // S5: each mistake names the file, the place and what is needed
fn mistakes_are_named() {
    let here = Place::new();
    here.put("t.csv", csv(140));
    here.put("t.parquet", parquet(60));
    here.put("hole.csv", "x,y,kind\n1,2,ant\n3,,bee\n");
    here.put("word.csv", "x,y,kind\n1,2,ant\n3,NA,bee\n");
    here.put("ragged.csv", "x,y,kind\n1,2\n");
    here.put("twice.csv", "x,x,kind\n1,2,ant\n");
    here.put("empty.csv", "x,y,kind\n");
    here.put("numbers.csv", "x,y,kind\n1,2,1\n3,4,3\n");
    here.put("short.txt", "too short");
    here.put("bad.gz", [0x1f, 0x8b, 1, 2, 3]);
    let e = |source: &str| here.error(LINEAR, &format!("source = {{ {source} }}\n{CUT}"));
    let has = |error: String, parts: &[&str]| assert!(parts.iter().all(|p| error.contains(p)), "{error}");
    has(e(r#"csv = "t.csv", label = "species""#), &["t.csv", "no column `species`", "`x`, `y`, `kind`"]);
    has(e(r#"parquet = "t.parquet", label = "species""#), &["t.parquet", "no column `species`", "`kind`"]);
    has(e(r#"csv = "t.csv", label = "kind", features = ["z"]"#), &["no column `z`"]);
    has(e(r#"csv = "t.csv", label = "kind", features = ["x"]"#), &["1 feature columns (`x`)", "takes 2"]);
    has(e(r#"csv = "t.csv", label = "kind", features = ["x", "kind"]"#), &["`kind` is the label"]);
    has(e(r#"csv = "t.csv", label = "x", features = ["y", "kind"]"#), &["line 2, column `kind`", "`ant` is no number"]);
    has(e(r#"parquet = "t.parquet", label = "x", features = ["y", "kind"]"#), &["row 2, column `x`", "whole number"]);
    has(e(r#"csv = "t.csv", label = "kind", classes = ["ant", "bee"]"#), &["row 3", "`cow` is none of `ant`, `bee`"]);
    has(e(r#"csv = "t.csv", label = "kind", classes = ["a", "b", "c", "d"]"#), &["4 different labels", "3 classes"]);
    has(e(r#"csv = "t.csv", label = "kind", classes = ["ant", "bee", "ant"]"#), &["lists `ant` twice"]);
    has(e(r#"csv = "numbers.csv", label = "kind""#), &["row 2", "label 3 is no class", "counted from 0"]);
    has(e(r#"csv = "hole.csv", label = "kind""#), &["line 3, column `y`", "empty"]);
    has(e(r#"csv = "word.csv", label = "kind""#), &["line 3, column `y`", "`NA` is no number"]);
    has(e(r#"csv = "ragged.csv", label = "kind""#), &["ragged.csv", "2 fields"]);
    has(e(r#"csv = "twice.csv", label = "kind""#), &["two columns are called `x`"]);
    has(e(r#"csv = "empty.csv", label = "kind""#), &["no rows below the header"]);
    has(e(r#"csv = "gone.csv", label = "kind""#), &["source: cannot read", "gone.csv"]);
    has(e(r#"csv = "bad.gz", label = "kind""#), &["bad.gz", "damaged gzip"]);
    has(e(r#"parquet = "t.csv", label = "kind""#), &["t.csv", "not a Parquet file"]);
    has(e(r#"csv = "t.csv""#), &["needs `label`"]);
    has(e(r#"csv = "t.csv", text = "short.txt""#), &["exactly one of"]);
    has(e(r#"csv = "t.csv", label = "kind", rows = 7"#), &["rows"]);
    has(e(r#"csv = "t.csv", label = "kind", samples = 141"#), &["140 samples, 141 are needed"]);
    has(e(r#"csv = "t.csv", label = "kind", samples = 70"#), &["70 samples", "75 are needed"]);
    has(e(r#"csv = "t.csv", label = "kind", samples = 100"#), &["shard_samples must be 32 to the 26"]);
    has(e(r#"csv = "t.csv", label = "kind", class = 3"#), &["belong to guards"]);
    has(e(r#"text = "short.txt""#), &["reads rows, the source brings text"]);
    let source = r#"source = { csv = "t.csv", label = "kind" }"#;
    let few = format!("{source}\neval_samples = 63\ntest_samples = 10");
    has(here.error(LINEAR, &few), &["64 evaluation samples", "63"]);
    has(here.error(LINEAR, source), &["`eval_samples` and `test_samples`"]);
    has(here.error(LINEAR, &source.replace("source", "train")), &["either `source`, or `train`, `eval` and `test`"]);
    let guard = |g: &str| here.error(LINEAR, &format!("{source}\n{CUT}\nguards = {{ g = {{ {g} }} }}"));
    has(guard("class = 1, samples = 60"), &["guard `g`", "samples of class 1 in the evaluation part", "60 are needed"]);
    has(guard(r#"class = "dog""#), &["guard `g`", "`dog` is none of"]);
    has(guard(r#"class = 1, csv = "t.csv""#), &["either a `class`"]);
    has(guard("samples = 3"), &["exactly one of"]);
    let text = |name: &str| here.error(BYTES, &format!("source = {{ text = \"{name}\" }}\n{CUT}"));
    has(text("short.txt"), &["9 bytes of text are 0 samples", "75 are needed"]);
    has(text("bad.gz"), &["bad.gz", "damaged gzip"]);
    has(here.error(BYTES, &format!("{source}\n{CUT}")), &["reads text, the source brings rows"]);
    // the limits of the architecture come before any file is read (K3)
    has(here.error("{ linear = { inputs = 4294967295, classes = 3 } }", source), &["inputs is 4294967295"]);
    let path = here.put("m.toml", "name = 3");
    has(model_file::load(&path, None).err().unwrap().to_string(), &["m.toml", "line 1"]);
}

#[test] // `data` says where the files are
fn data_can_lie_elsewhere() {
    let (here, there) = (Place::new(), Place::new());
    let table = there.put("other.csv", csv(140));
    there.put("t.csv", csv(140));
    let one = format!("source = {{ csv = \"t.csv\", label = \"kind\" }}\n{CUT}");
    assert!(here.error(LINEAR, &one).contains("cannot read"));
    let path = here.0.path().join("m.toml");
    let by_folder = model_file::load(&path, Some(there.0.path())).unwrap();
    let by_file = model_file::load(&path, Some(&table)).unwrap();
    assert_eq!(by_folder.manifest.id(), by_file.manifest.id());
    // ... and only of that source: a guard keeps its own file
    here.put("own.csv", "x,y,kind\n1,2,ant\n3,4,bee\n");
    let own = format!("{one}\nguards = {{ g = {{ csv = \"own.csv\", label = \"kind\" }} }}");
    here.error(LINEAR, &own);
    assert_eq!(model_file::load(&path, Some(&table)).unwrap().manifest.data.guards[0].split.samples, 2);
    let three = "train = { csv = \"t.csv\", label = \"kind\" }\n";
    let three = [three, &three.replace("train", "eval"), &three.replace("train", "test")].concat();
    assert!(here.error(LINEAR, &three).contains("cannot read"));
    model_file::load(&path, Some(there.0.path())).unwrap();
    let error = model_file::load(&path, Some(&table)).err().unwrap().to_string();
    assert!(error.contains("is no folder"), "{error}");
}

#[test] // S5: worked out by hand
fn samples_needed_to_prove_a_gain() {
    assert_eq!(samples_needed(2000, 100, 10), 400); // (2 * 100 / 10)^2
    assert_eq!(samples_needed(2330, 10_000, 100), 54_289);
    assert_eq!(samples_needed(2330, 10, 7), 12); // 11.08 is rounded up
    assert_eq!(samples_needed(0, 10, 7), 1);
    assert_eq!(samples_needed(2330, 10, 0), u64::MAX);
    assert!(samples_needed(u32::MAX, u64::MAX, 1) > 1 << 60);
    assert_eq!(samples_needed(1, 1, u64::MAX), 1);
}

proptest! {
    #[test] // the two figures of a report agree, and neither is too large
    fn gain_and_samples_agree(z in 0u32..20_000, spread in 0u64..1 << 27, n in 1u32..1 << 20) {
        let gain = gain_provable_unat(z, spread, n);
        prop_assert!(gain == 0 || samples_needed(z, spread, gain) <= u64::from(n));
        prop_assert!(gain < 2 || samples_needed(z, spread, gain - 1) > u64::from(n));
    }
}

fn columns() -> Columns {
    Columns { label: "kind".into(), features: None }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test] // K3
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), head in 0usize..4) {
        let start: &[u8] = [&b""[..], b"x,y,kind\n", b"\x1f\x8b\x08\0\0\0\0\0\0\0", b"PAR1"][head];
        let all = [start, &bytes].concat();
        let _ = import::csv::read(all.clone(), &columns());
        let _ = import::text::read(all.clone());
        let _ = import::parquet::read([&all[..], b"PAR1"].concat(), &columns());
        if let Ok(table) = import::csv::read([b"x,kind\n", &bytes[..]].concat(), &columns()) {
            prop_assert!(table.values.len() == table.labels.len() && table.values.iter().all(|v| v.is_finite()));
        }
    }

    #[test] // K3: one changed byte
    fn damaged_files_never_panic(at: prop::sample::Index, to: u8) {
        let files = [parquet(60), gzip(csv(60).as_bytes()), csv(60).into_bytes()];
        for (i, mut bytes) in files.into_iter().enumerate() {
            *at.get_mut(&mut bytes) = to;
            let read = if i == 0 { import::parquet::read } else { import::csv::read };
            if let Ok(table) = read(bytes, &columns()) {
                prop_assert!(table.values.len() <= 2 * 60 && table.values.iter().all(|v| v.is_finite()));
            }
        }
    }

    #[test] // any table: what is written in CSV is what is read
    fn csv_round_trip(rows in proptest::collection::vec((-1e300f64..1e300, "[a-z\",\n ]{0,6}[a-z]"), 1..40)) {
        let cell = |s: &str| format!("\"{}\"", s.replace('"', "\"\""));
        let lines = rows.iter().map(|(x, label)| format!("{x},{}\n", cell(label)));
        let text: String = std::iter::once("x,kind\n".to_string()).chain(lines).collect();
        let table = import::csv::read(text.into_bytes(), &columns()).unwrap();
        prop_assert_eq!(table.values, rows.iter().map(|(x, _)| *x).collect::<Vec<_>>());
        let labels: Vec<&str> = rows.iter().map(|(_, label)| label.trim()).collect();
        prop_assert_eq!(table.labels, labels);
    }
}

#[test] // K3: a bomb stops at the limit, not at the end of the memory
fn gzip_bombs_stop() {
    let zeros = vec![0; 1 << 20];
    let member = gzip(&zeros);
    let bomb: Vec<u8> = std::iter::repeat_n(member, 513).flatten().collect();
    assert!(import::unpack(bomb).unwrap_err().to_string().contains("unpacks to more than"));
}

/// Writes a model whose guard has its own file, sealed or not; its path and the guard's rows.
fn with_own_guard(here: &Place, sealed: &str) -> PathBuf {
    here.put("t.csv", csv(200));
    here.put("own.csv", csv(40));
    let data = format!(
        "source = {{ csv = \"t.csv\", label = \"kind\" }}\n{CUT}\nguards = {{ g = {{ csv = \"own.csv\", label = \"kind\"{sealed} }} }}"
    );
    here.put("m.toml", MODEL.replace("{architecture}", LINEAR).replace("{data}", &data))
}

fn says(error: String, parts: &[&str]) {
    assert!(parts.iter().all(|p| error.contains(p)), "{error}");
}

#[test] // S3: a sealed guard is stored as cipher text, the same every time, and only its secret gives this model
fn a_sealed_guard_is_hidden() {
    let here = Place::new();
    let open = model_file::load(&with_own_guard(&here, ""), None).unwrap();
    let path = with_own_guard(&here, ", sealed = true");
    let load = |n: u8| model_file::load_sealed(&path, None, &[n; 32]).unwrap();
    let (b, plain) = (load(1), open.manifest.data.guards[0].split);
    let guard = &b.manifest.data.guards[0];
    assert_eq!(guard.sealed, Some(plain.blob), "committed to by its hash");
    assert_eq!(guard.split.samples, plain.samples);
    let text = blob(&open, &plain.blob);
    let at = text.len() - 64;
    let shows = |bundle: &Bundle| bundle.blobs.iter().any(|b| b.windows(64).any(|w| w == &text[at..]));
    assert!(shows(&open) && !shows(&b), "no blob holds the samples");
    assert_eq!(load(1).manifest.id(), b.manifest.id());
    assert_ne!(load(2).manifest.id(), b.manifest.id());

    let rows = |bundle: &Bundle| {
        let data = bundle.data().unwrap();
        data.guards[0].as_ref().map(|g| format!("{:?}", g.batch(&(0..g.len()).collect::<Vec<_>>()).unwrap()))
    };
    assert_eq!(rows(&b), rows(&open), "opened, it is the same");
    assert!(rows(&open).is_some());
    let without = Bundle { guard_key: None, ..load(1) };
    assert_eq!(rows(&without), None);
    let wrong = Bundle { guard_key: load(2).guard_key, ..load(1) };
    says(wrong.data().err().unwrap().to_string(), &["guard `g`", "another key"]);
    assert!(load(1).report().contains("sealed `g`"));
    assert_eq!(model_file::load_sealed(&with_own_guard(&here, ""), None, &[1; 32]).unwrap().guard_key, None);
}

#[test] // S3
fn what_cannot_be_sealed_is_refused() {
    let here = Place::new();
    let path = with_own_guard(&here, ", sealed = true");
    says(model_file::load(&path, None).err().unwrap().to_string(), &["guard `g` is sealed", "oda sponsor"]);
    let source = "source = { csv = \"t.csv\", label = \"kind\" }";
    let guards = "guards = { g = { class = \"bee\", sealed = true } }";
    says(here.error(LINEAR, &format!("{source}\n{CUT}\n{guards}")), &["guard `g`", "a file of its own"]);
    let source = "source = { csv = \"t.csv\", label = \"kind\", sealed = true }";
    says(here.error(LINEAR, &format!("{source}\n{CUT}")), &["source", "belong to guards"]);
}
