//! Flags of the samplers, made from their registry.

use clap::builder::{ArgAction, StyledStr};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use rz_model::sampler::{Chain, Kind, Param, SAMPLERS, Settings};

use crate::failure::Failure;

/// What was set on the samplers.
#[derive(Clone, Debug)]
pub(crate) struct Sampling(pub(crate) Settings);

impl Sampling {
    /// A chain with these settings.
    pub(crate) fn chain(&self) -> Result<Chain, Failure> {
        Ok(Chain::new(&self.0)?)
    }
}

impl Args for Sampling {
    fn augment_args(command: Command) -> Command {
        command.next_help_heading("Sampling options").args(params().filter_map(flag)).next_help_heading(None)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Sampling {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut sampling = Self(Settings::new());
        sampling.update_from_arg_matches(matches)?;
        Ok(sampling)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for param in params() {
            let text = match param.kind {
                Kind::Bool { .. } => matches.get_flag(param.name).then(|| "true".to_owned()),
                _ => matches.get_one::<String>(param.name).cloned(),
            };
            if let Some(text) = text {
                let set = self.0.set_text(param.name, &text);
                set.map_err(|error| {
                    clap::Error::raw(clap::error::ErrorKind::InvalidValue, format!("{error}\n"))
                })?;
            }
        }
        Ok(())
    }
}

fn params() -> impl Iterator<Item = &'static Param> {
    SAMPLERS.iter().flat_map(|sampler| sampler.params)
}

fn flag(param: &'static Param) -> Option<Arg> {
    let (first, others) = param.flags.split_first()?;
    let arg = Arg::new(param.name).long(*first).visible_aliases(others.to_vec());
    Some(match param.kind {
        Kind::Bool { .. } => arg.action(ArgAction::SetTrue).help(StyledStr::from(param.doc)),
        _ => arg
            .value_name("N")
            .allow_negative_numbers(true)
            .value_parser(move |text: &str| {
                let set = Settings::new().set_text(param.name, text).map(|()| text.to_owned());
                set.map_err(|_| format!("expected {}", param.kind))
            })
            .help(format!("{} ({}; default: {})", param.doc, param.kind, param.default())),
    })
}
