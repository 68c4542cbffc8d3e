//! Nothing here uses libtorch; but where the whole workspace is built at once, cargo links in what any member asks of
//! `oda-ml`, and then the programs must find it.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if let Ok(dir) = std::env::var("LIBTORCH") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{dir}/lib");
    }
}
