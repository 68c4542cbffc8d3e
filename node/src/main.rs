//! `oda`: see [`oda_node::cli`].

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    let cli = oda_node::cli::Cli::parse();
    let filter = match tracing_subscriber::EnvFilter::try_new(&cli.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!(
                "oda: --log {}: {error}; give a level such as info, or directives such as oda_node=debug",
                cli.log
            );
            return std::process::ExitCode::from(2);
        }
    };
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        logs.init()
    } else {
        logs.with_ansi(false).init()
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("oda: cannot start: {error}");
            return std::process::ExitCode::FAILURE;
        }
    };
    // a reader that has seen enough (`| head`) is no fault of ours
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str().is_some_and(|text| text.contains("Broken pipe")) {
            std::process::exit(0);
        }
        hook(info);
    }));
    let result = runtime.block_on(oda_node::cli::run(cli));
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oda: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
