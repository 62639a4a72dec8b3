//! From instructions to stages: what each stands on and needs, and which of them the target needs at all.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::image::Platform;

use crate::expand::Expander;
use crate::syntax::{Dockerfile, Instruction, Op, nearest};
use crate::{BuildOptions, Error, Result, mounts};

/// What a stage starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Scratch,
    Stage(usize),
    Image(String),
}

/// What `--from` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    Stage(usize),
    Image(String),
    Scratch,
}

#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) name: Option<String>,
    pub(crate) base: Base,
    pub(crate) platform: Option<Platform>,
    pub(crate) from: Instruction,
    pub(crate) steps: Vec<Instruction>,
    pub(crate) deps: BTreeSet<usize>,
    /// Number of its `FROM` among the steps that run.
    pub(crate) number: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) stages: Vec<Stage>,
    pub(crate) target: usize,
    /// In the order of the file.
    pub(crate) required: BTreeSet<usize>,
    /// `ARG`s before the first `FROM`, and the ones that are always there.
    pub(crate) globals: BTreeMap<String, String>,
    pub(crate) escape: char,
    pub(crate) total: usize,
    /// Build arguments that nothing declares.
    pub(crate) unused_args: Vec<String>,
}

pub(crate) const PROXY_ARGS: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// Whether it may be given without an `ARG`.
pub(crate) fn is_proxy(name: &str) -> bool {
    PROXY_ARGS.iter().any(|p| *p == name || p.to_uppercase() == name)
}

impl Plan {
    pub(crate) fn new(file: &Dockerfile, options: &BuildOptions, host: &Platform) -> Result<Self> {
        file.check()?;
        let target_platform = options.platform.clone().unwrap_or_else(|| host.clone());
        let mut plan = Self {
            stages: Vec::new(),
            target: 0,
            required: BTreeSet::new(),
            globals: platform_args(host, &target_platform, options),
            escape: file.escape,
            total: 0,
            unused_args: Vec::new(),
        };
        let mut declared: BTreeSet<String> = BTreeSet::new();
        for i in file.instructions() {
            match &i.op {
                Some(Op::Arg(args)) => declared.extend(args.iter().map(|(n, _)| n.clone())),
                Some(Op::Onbuild(_)) => declared.extend(onbuild_args(i)),
                _ => {}
            }
            match &i.op {
                Some(Op::Arg(args)) if plan.stages.is_empty() => plan.global_args(args, options, i.line)?,
                Some(Op::From { image, name, platform }) => {
                    let stage = plan.stage(i, image, name.clone(), platform.as_deref())?;
                    plan.stages.push(stage);
                }
                Some(_) => {
                    let index = plan.stages.len().checked_sub(1);
                    let index = index
                        .ok_or_else(|| Error::instruction(i.line, "no build stage in current context"))?;
                    plan.stages[index].steps.push(i.clone());
                }
                None => {}
            }
        }
        let given = options.build_args.iter().map(|(n, _)| n.clone());
        plan.unused_args = given
            .filter(|n| !declared.contains(n) && !is_proxy(n) && !plan.globals.contains_key(n))
            .collect();
        plan.find_target(options.target.as_deref())?;
        plan.connect()?;
        Ok(plan)
    }

    fn global_args(
        &mut self,
        args: &[(String, Option<String>)],
        options: &BuildOptions,
        line: usize,
    ) -> Result<()> {
        for (name, default) in args {
            let given = options.build_args.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.clone());
            let value = match (given, default) {
                (Some(v), _) => Some(v),
                (None, Some(d)) => Some(self.expand_global(d, line)?),
                (None, None) => self.globals.get(name).cloned(),
            };
            if let Some(value) = value {
                self.globals.insert(name.clone(), value);
            }
        }
        Ok(())
    }

    fn expand_global(&self, text: &str, line: usize) -> Result<String> {
        let lookup = |name: &str| self.globals.get(name).cloned();
        Expander::new(self.escape, &lookup)
            .word(text)
            .map(|e| e.text)
            .map_err(|m| Error::instruction(line, m))
    }

    fn stage(
        &self,
        i: &Instruction,
        image: &str,
        name: Option<String>,
        platform: Option<&str>,
    ) -> Result<Stage> {
        let image_name = self.expand_global(image, i.line)?;
        if image_name.is_empty() {
            return Err(Error::instruction(i.line, format!("base name ({image}) should not be blank")));
        }
        let base = match self.find_stage(&image_name, self.stages.len()) {
            Some(index) => Base::Stage(index),
            None if image_name == "scratch" => Base::Scratch,
            None => Base::Image(image_name),
        };
        let platform = match platform {
            Some(p) => Some(self.expand_global(p, i.line)?).filter(|p| !p.is_empty()),
            None => None,
        };
        let platform =
            platform.map(|p| parse_platform(&p).map_err(|m| Error::instruction(i.line, m))).transpose()?;
        Ok(Stage {
            name,
            base,
            platform,
            from: i.clone(),
            steps: Vec::new(),
            deps: BTreeSet::new(),
            number: 0,
        })
    }

    /// A stage by name, whatever its case, among the first `before`; the last of several.
    fn find_stage(&self, name: &str, before: usize) -> Option<usize> {
        let stages = self.stages.iter().enumerate().take(before);
        stages
            .rev()
            .find(|(_, s)| s.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(name)))
            .map(|(i, _)| i)
    }

    fn find_target(&mut self, target: Option<&str>) -> Result<()> {
        let count = self.stages.len();
        self.target = match target {
            None | Some("") => count.checked_sub(1),
            Some(t) => self.find_stage(t, count).or_else(|| t.parse().ok().filter(|n| *n < count)),
        }
        .ok_or_else(|| Error::NoStage { name: target.unwrap_or_default().to_owned() })?;
        Ok(())
    }

    /// What `--from=name` in the stage means: an earlier stage by name or number, else an image.
    pub(crate) fn reference(&self, stage: usize, name: &str, line: usize) -> Result<Reference> {
        if let Some(index) = self.find_stage(name, stage) {
            return Ok(Reference::Stage(index));
        }
        if let Ok(index) = name.parse::<usize>() {
            return if index < stage {
                Ok(Reference::Stage(index))
            } else {
                Err(Error::instruction(
                    line,
                    format!("invalid from flag value {name}: refers to current or later build stage"),
                ))
            };
        }
        if self.find_stage(name, self.stages.len()).is_some() {
            return Err(Error::instruction(
                line,
                format!("invalid from flag value {name}: refers to current or later build stage"),
            ));
        }
        Ok(if name == "scratch" { Reference::Scratch } else { Reference::Image(name.to_owned()) })
    }

    /// Puts an image's triggers in front of the steps of a stage.
    pub(crate) fn add_triggers(&mut self, stage: usize, triggers: Vec<Instruction>) -> Result<()> {
        self.stages[stage].steps.splice(0..0, triggers);
        self.connect()
    }

    /// Finds what each stage needs, which stages are needed, and numbers their steps.
    fn connect(&mut self) -> Result<()> {
        for index in 0..self.stages.len() {
            let mut deps = BTreeSet::new();
            if let Base::Stage(base) = self.stages[index].base {
                deps.insert(base);
            }
            for step in &self.stages[index].steps {
                for name in references(step).map_err(|m| Error::instruction(step.line, m))? {
                    if let Reference::Stage(dep) = self.reference(index, &name, step.line)? {
                        deps.insert(dep);
                    }
                }
            }
            self.stages[index].deps = deps;
        }
        let mut todo = vec![self.target];
        self.required.clear();
        while let Some(index) = todo.pop() {
            if self.required.insert(index) {
                todo.extend(&self.stages[index].deps);
            }
        }
        self.total = 0;
        for index in &self.required {
            self.stages[*index].number = self.total + 1;
            self.total += 1 + self.stages[*index].steps.len();
        }
        Ok(())
    }
}

/// The names in `--from` and in `from=` of mounts.
fn references(i: &Instruction) -> Result<Vec<String>, String> {
    Ok(match &i.op {
        Some(Op::Copy(copy)) => copy.from.iter().cloned().collect(),
        Some(Op::Run(run)) => {
            let mut names = Vec::new();
            for mount in &run.mounts {
                names.extend(mounts::from_of(mount)?);
            }
            names
        }
        _ => Vec::new(),
    })
}

fn onbuild_args(i: &Instruction) -> Vec<String> {
    let words = i.arguments.split_whitespace();
    let is_arg = i.arguments.get(..3).is_some_and(|w| w.eq_ignore_ascii_case("arg"));
    if is_arg {
        words.skip(1).map(|w| w.split('=').next().unwrap_or(w).to_owned()).collect()
    } else {
        Vec::new()
    }
}

fn platform_args(host: &Platform, target: &Platform, options: &BuildOptions) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for (prefix, p) in [("BUILD", host), ("TARGET", target)] {
        args.insert(format!("{prefix}PLATFORM"), platform_text(p));
        args.insert(format!("{prefix}OS"), p.os().to_string());
        args.insert(format!("{prefix}ARCH"), p.architecture().to_string());
        args.insert(format!("{prefix}VARIANT"), p.variant().clone().unwrap_or_default());
    }
    args.insert("TARGETSTAGE".to_owned(), options.target.clone().unwrap_or_else(|| "default".to_owned()));
    if let Some(epoch) = options.source_date_epoch {
        args.insert("SOURCE_DATE_EPOCH".to_owned(), epoch.to_string());
    }
    for (name, value) in &options.build_args {
        if args.contains_key(name) {
            args.insert(name.clone(), value.clone());
        }
    }
    args
}

pub(crate) fn platform_text(p: &Platform) -> String {
    let variant =
        p.variant().as_deref().filter(|v| !v.is_empty()).map(|v| format!("/{v}")).unwrap_or_default();
    format!("{}/{}{variant}", p.os(), p.architecture())
}

fn parse_platform(text: &str) -> Result<Platform, String> {
    longshore_image::parse_platform(text).map_err(|e| {
        let near = nearest(text, ["linux/amd64", "linux/arm64"]).map(|n| format!(" (did you mean {n}?)"));
        format!("{e}{}", near.unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, options: &BuildOptions) -> Result<Plan> {
        Plan::new(&crate::syntax::parse(text), options, &longshore_image::host_platform())
    }

    #[test]
    fn only_what_the_target_needs() {
        let text = "FROM a AS One\nRUN x\nFROM b AS two\nFROM one AS three\nCOPY --from=0 /x /y\nFROM d AS four\n\
                    COPY --from=ONE a b\nRUN --mount=type=bind,from=three,target=/t x\n";
        let p = plan(text, &BuildOptions::default()).unwrap();
        assert_eq!(p.required, BTreeSet::from([0, 2, 3]));
        assert_eq!(p.stages[2].base, Base::Stage(0));
        assert_eq!(p.total, 2 + 2 + 3);
        let two = BuildOptions { target: Some("TWO".into()), ..BuildOptions::default() };
        assert_eq!(plan(text, &two).unwrap().required, BTreeSet::from([1]));
        let none = BuildOptions { target: Some("x".into()), ..BuildOptions::default() };
        assert!(plan(text, &none).unwrap_err().is_not_found());
        for bad in ["FROM a\nCOPY --from=0 a b", "FROM a AS x\nCOPY --from=y a b\nFROM c AS y", "FROM $X"] {
            assert!(plan(bad, &BuildOptions::default()).is_err(), "{bad}");
        }
    }

    #[test]
    fn global_arguments() {
        let mut options = BuildOptions {
            build_args: vec![("V".into(), "12".into()), ("U".into(), "1".into())],
            ..Default::default()
        };
        options.source_date_epoch = Some(5);
        let p = plan("ARG V=11\nARG W=x$V\nFROM debian:$W$SOURCE_DATE_EPOCH", &options).unwrap();
        assert_eq!(p.stages[0].base, Base::Image("debian:x125".into()));
        assert_eq!(p.unused_args, ["U"]);
    }
}
