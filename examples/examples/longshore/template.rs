//! The part of Go's `text/template` that people use in `--format`, over JSON values.
//!
//! Fields, variables, `if`/`else`/`range`/`with`, pipelines, Docker's functions (`json`, `join`, `split`, `upper`, ...).

mod eval;
mod parse;

use serde_json::Value;

/// A template, ready to be run.
#[derive(Debug)]
pub(crate) struct Template(Vec<Node>);

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Pipe),
    Set(String, Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    Range { names: Vec<String>, over: Pipe, body: Vec<Node>, otherwise: Vec<Node> },
}

/// Commands joined by `|`: each one's value is the last argument of the next.
type Pipe = Vec<Vec<Operand>>;

#[derive(Debug)]
enum Operand {
    Literal(Value),
    Function(String),
    /// `.A.B`, `$x.A`, `(...).A`: where it starts, and the fields from there.
    Path(Start, Vec<String>),
}

#[derive(Debug)]
enum Start {
    Dot,
    Variable(String),
    Group(Pipe),
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        parse::parse(text).map(Self).map_err(|e| format!("template parsing error: {e}"))
    }

    pub(crate) fn render(&self, data: &Value) -> Result<String, String> {
        let mut out = String::new();
        eval::run(&self.0, data, &mut vec![("$".to_owned(), data.clone())], &mut out)
            .map_err(|e| format!("template: {e}"))?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str) -> String {
        let data = json!({
            "Name": "/web", "Count": 3, "Size": 1.5, "Up": true, "Nothing": null, "Args": ["-D", "FOREGROUND"],
            "State": {"Status": "running"}, "Labels": {"a": "1", "b.c": "2"},
            "Networks": {"bridge": {"IPAddress": "172.17.0.2"}, "other": {"IPAddress": "10.0.0.2"}},
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "443/tcp": null},
        });
        Template::parse(template).and_then(|t| t.render(&data)).unwrap_or_else(|e| format!("error: {e}"))
    }

    #[test]
    fn fields_and_text() {
        assert_eq!(render("{{.Name}} {{ .State.Status }}!"), "/web running!");
        assert_eq!(
            render("{{.Count}} {{.Size}} {{.Up}} {{.Args}} {{.Labels}}"),
            "3 1.5 true [-D FOREGROUND] map[a:1 b.c:2]"
        );
        assert_eq!(render("a {{- .Count -}} b"), "a3b");
        assert_eq!(render("{{/* nothing */}}x"), "x");
    }

    #[test]
    fn docker_functions() {
        assert_eq!(render("{{json .State}}"), r#"{"Status":"running"}"#);
        assert_eq!(render("{{.Args | json}}"), r#"["-D","FOREGROUND"]"#);
        assert_eq!(
            render(r#"{{join .Args ","}} {{upper "x"}} {{(split "a:b" ":")}}"#),
            "-D,FOREGROUND X [a b]"
        );
        assert_eq!(render(r#"{{index .Labels "b.c"}} {{index .Args 1}} {{len .Args}}"#), "2 FOREGROUND 2");
        assert_eq!(render(r#"{{truncate .Name 2}}|{{pad "x" 1 2}}|{{slice .Name 1}}"#), "/w| x  |web");
        assert_eq!(render(r#"{{printf "%s=%d %v %q" .Name .Count .Up "x"}}"#), r#"/web=3 true "x""#);
        assert_eq!(render(r#"{{println .Count "a"}}"#), "3 a\n");
    }

    #[test]
    fn control() {
        assert_eq!(render("{{range .Networks}}{{.IPAddress}} {{end}}"), "172.17.0.2 10.0.0.2 ");
        assert_eq!(render("{{range $i, $a := .Args}}{{$i}}={{$a}};{{end}}"), "0=-D;1=FOREGROUND;");
        assert_eq!(
            render("{{range $p, $c := .Ports}}{{$p}}>{{range $c}}{{.HostPort}}{{else}}-{{end}} {{end}}"),
            "443/tcp>- 80/tcp>8080 "
        );
        assert_eq!(render("{{if .Nothing}}a{{else if eq .Count 3}}b{{else}}c{{end}}"), "b");
        assert_eq!(render("{{with .State}}{{.Status}}{{end}}{{with .Nothing}}x{{else}}y{{end}}"), "runningy");
        assert_eq!(render(r#"{{$x := .Count}}{{if and .Up (gt $x 2)}}{{$.Name}}{{end}}"#), "/web");
        assert_eq!(render(r#"{{(index (index .Ports "80/tcp") 0).HostPort}}"#), "8080");
        assert_eq!(render(r#"{{if not (or .Nothing false)}}ok{{end}}"#), "ok");
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert!(render("{{.Nope}}").contains("no entry for key \"Nope\""));
        assert!(render("{{.Name").contains("unclosed action"));
        assert!(render("{{if .Up}}x").contains("unexpected end"));
        assert!(render("{{nope .Up}}").contains("function \"nope\" not defined"));
        assert!(render("{{end}}").contains("unexpected {{end}}"));
    }
}
