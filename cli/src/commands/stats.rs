//! `vpn stats`.

use contract::{
    ByteCount, Code, Error,
    stats::{Kind, Ranking, Top, Total},
    usage::Traffic,
};

use crate::{
    args::stats::Verb,
    context::Context,
    output::{Cell, Paint, Style, Table, bytes},
};

pub(crate) async fn run(ctx: &Context, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Usage(of) => {
            let request = of.request().ok_or_else(|| Error::new(Code::CLI_USAGE, "nobody is named"))?;
            let total = ctx.call(request).await?;
            ctx.output.show(&total, |style| usage(&total, style))
        }
        Verb::Top(top) => {
            let request = Top::from(top);
            let of = request.of;
            let ranking = ctx.call(request).await?;
            ctx.output.show(&ranking, |style| rank(of, &ranking, style))
        }
    }
}

fn usage(total: &Total, style: &Style) -> String {
    let mut table = Table::lines();
    let line =
        |of: Traffic, each: &str| format!("{}{each} sent, {}{each} received", amount(of.up), amount(of.down));
    table.row(["in all".into(), Cell::painted(Paint::Strong, amount(total.traffic.sum()))]);
    table.row(["".into(), line(total.traffic, "").into()]);
    table.row(["now".into(), line(total.rate, "/s").into()]);
    table.row(["last".into(), last(total, style).into()]);
    table.render(style)
}

fn rank(of: Kind, ranking: &Ranking, style: &Style) -> String {
    let (one, all) = match of {
        Kind::Users => ("USER", "users"),
        Kind::Servers => ("SERVER", "servers"),
        Kind::Nodes => ("NODE", "nodes"),
    };
    if ranking.rows.is_empty() {
        return format!("no {all} with traffic");
    }
    let mut table = Table::new([one, "TOTAL", "SENT", "RECEIVED", "NOW", "LAST"]);
    for row in &ranking.rows {
        let paint = if row.gone { Paint::Faint } else { Paint::Plain };
        let name = if row.gone { format!("{} (deleted)", row.name) } else { row.name.clone() };
        table.row([
            Cell::painted(paint, name),
            amount(row.total.traffic.sum()).into(),
            amount(row.total.traffic.up).into(),
            amount(row.total.traffic.down).into(),
            format!("{}/s", amount(row.total.rate.sum())).into(),
            last(&row.total, style).into(),
        ]);
    }
    format!("{}\n{} of {} {all}", table.render(style).trim_end(), ranking.rows.len(), ranking.total)
}

fn last(total: &Total, style: &Style) -> String {
    total.last_at.map_or_else(|| "never".to_owned(), |at| style.moment(at))
}

fn amount(count: u64) -> String {
    if count == 0 { "0 B".to_owned() } else { bytes(ByteCount::clamped(count)) }
}
