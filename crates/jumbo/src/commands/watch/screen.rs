//! The view in a terminal.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jumbo_host::rates::{CpuRates, DeviceRates, QueueRates, Rates};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Sparkline, Table};
use ratatui::{DefaultTerminal, Frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::feed::Feed;
use super::state::{PortRates, State};
use crate::args::WatchArgs;
use crate::error::CliError;

/// What is shown large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Panel {
    All,
    Devices,
    Cpus,
    Ports,
    Events,
}

/// What the operator pressed so far.
struct Ui {
    panel: Panel,
    paused: bool,
    /// By traffic instead of by the kernel's order.
    sorted: bool,
    scroll: usize,
    colour: bool,
    trouble: Option<String>,
    ended: bool,
}

/// Longest wait for a key before the signals are looked at.
const NAP: Duration = Duration::from_millis(250);

/// Draws until a key or a signal ends it. The terminal is put back whatever happens, a panic too.
pub(super) fn run(
    feed: &mut Feed,
    mut state: State,
    args: &WatchArgs,
    stop: &AtomicBool,
) -> Result<(), CliError> {
    let wrong =
        |error: io::Error| CliError::machine(format!("cannot draw on this terminal: {error}"));
    let mut terminal = ratatui::try_init().map_err(wrong)?;
    let ui = Ui {
        panel: Panel::All,
        paused: false,
        sorted: false,
        scroll: 0,
        colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        trouble: None,
        ended: false,
    };
    let outcome = watch(&mut terminal, feed, &mut state, ui, args, stop);
    ratatui::try_restore().map_err(wrong)?;
    outcome.map_err(wrong)?;
    feed.finish()
}

fn watch(
    terminal: &mut DefaultTerminal,
    feed: &mut Feed,
    state: &mut State,
    mut ui: Ui,
    args: &WatchArgs,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut next = Instant::now();
    let mut shown = 0;
    while !stop.load(Ordering::Relaxed) && args.count.is_none_or(|count| shown < count) {
        if Instant::now() >= next {
            next = Instant::now() + args.interval.0;
            if !ui.paused {
                shown += u64::from(read(feed, state, &mut ui));
            }
            terminal.draw(|frame| draw(frame, state, &ui))?;
        }
        let left = next.saturating_duration_since(Instant::now()).min(NAP);
        let mut waited = wait(left)?;
        // Whatever woke us: the library may hold keys that came together, or a new size.
        while waited != Waited::HungUp && event::poll(Duration::ZERO)? {
            match ui.take(&event::read()?) {
                true => terminal.draw(|frame| draw(frame, state, &ui))?,
                false => return Ok(()),
            };
            waited = wait(Duration::ZERO)?;
        }
        if waited == Waited::HungUp {
            return Ok(());
        }
    }
    Ok(())
}

/// What became of waiting for a key.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Waited {
    Enough,
    /// The terminal is gone; not every one sends a signal when it goes.
    HungUp,
}

/// Waits for input at most that long. Not left to the library, which reads a terminal that is gone again and again.
fn wait(most: Duration) -> io::Result<Waited> {
    let input = io::stdin();
    if !input.is_terminal() {
        // Keys come from the controlling terminal then, which hangs up by a signal.
        event::poll(most)?;
        return Ok(Waited::Enough);
    }
    let mut polled = [PollFd::new(&input, PollFlags::IN)];
    let most = Timespec {
        tv_sec: most.as_secs() as i64,
        tv_nsec: most.subsec_nanos().into(),
    };
    match poll(&mut polled, Some(&most)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    Ok(match polled[0].revents().intersects(gone) {
        true => Waited::HungUp,
        false => Waited::Enough,
    })
}

/// One reading; whether it made a view. What goes wrong is shown, and tried again.
fn read(feed: &mut Feed, state: &mut State, ui: &mut Ui) -> bool {
    match feed.next() {
        Ok(Some(frame)) => {
            ui.trouble = None;
            state.take(frame).is_some()
        }
        Ok(None) => {
            ui.ended = true;
            ui.paused = true;
            false
        }
        Err(error) => {
            ui.trouble = Some(error.to_string());
            false
        }
    }
}

impl Ui {
    /// Takes a key; false to end.
    fn take(&mut self, event: &Event) -> bool {
        let Event::Key(key) = event else { return true };
        if key.kind != KeyEventKind::Press {
            return true;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return false,
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('p' | ' ') => self.paused = self.ended || !self.paused,
            KeyCode::Char('s') => self.sorted = !self.sorted,
            KeyCode::Char(digit @ '0'..='4') => {
                self.scroll = 0;
                self.panel = match digit {
                    '1' => Panel::Devices,
                    '2' => Panel::Cpus,
                    '3' => Panel::Ports,
                    '4' => Panel::Events,
                    _ => Panel::All,
                };
            }
            KeyCode::Down => self.scroll = self.scroll.saturating_add(1),
            KeyCode::Up => self.scroll = self.scroll.saturating_sub(1),
            _ => {}
        }
        true
    }

    fn heading(&self) -> Style {
        let bold = Style::default().add_modifier(Modifier::BOLD);
        if self.colour {
            bold.fg(Color::Cyan)
        } else {
            bold
        }
    }

    fn alarm(&self, wrong: bool) -> Style {
        match (wrong, self.colour) {
            (false, _) => Style::default(),
            (true, true) => Style::default().fg(Color::Yellow),
            (true, false) => Style::default().add_modifier(Modifier::BOLD),
        }
    }
}

fn draw(frame: &mut Frame<'_>, state: &State, ui: &Ui) {
    let [top, middle, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(title(state, ui)).style(ui.heading()), top);
    match (&state.view, ui.panel) {
        (None, _) => frame.render_widget(
            Paragraph::new("the first figures come with the second reading"),
            middle,
        ),
        (Some(_), Panel::All) => all(frame, middle, state, ui),
        (Some(view), Panel::Devices) => devices(frame, middle, &view.rates, ui),
        (Some(view), Panel::Cpus) => cpus(frame, middle, &view.rates.cpus, ui),
        (Some(view), Panel::Ports) => ports(frame, middle, &view.ports, ui),
        (Some(_), Panel::Events) => events(frame, middle, state, ui),
    }
    frame.render_widget(Paragraph::new(footer(ui)), bottom);
}

fn title(state: &State, ui: &Ui) -> String {
    let mut title = String::from("jumbo watch");
    if let Some(view) = &state.view {
        let rates = &view.rates;
        if let Some(ratio) = rates.segments_per_packet {
            title += &format!("   {ratio:.1} segments/packet");
        }
        if let Some(imbalance) = rates.imbalance() {
            title += &format!("   NET_RX busiest/mean {imbalance:.1}");
        }
        if let Some(unknown) = rates.unknown.first() {
            title += &format!("   not known: {unknown}");
        }
    }
    if ui.ended {
        title += "   end of the record";
    } else if ui.paused {
        title += "   paused";
    }
    title
}

fn footer(ui: &Ui) -> Line<'static> {
    match &ui.trouble {
        Some(trouble) => Line::styled(trouble.clone(), ui.alarm(true)),
        None => {
            Line::raw("1 devices  2 processors  3 ports  4 events  0 all  s sort  p pause  q quit")
        }
    }
}

/// Each panel gets what it needs, devices what is left.
fn all(frame: &mut Frame<'_>, area: Rect, state: &State, ui: &Ui) {
    let Some(view) = &state.view else { return };
    let rows = |count: usize, most: u16| match count {
        0 => 0,
        count => u16::try_from(count + 1).unwrap_or(most).min(most),
    };
    let quarter = (area.height / 4).max(2);
    let [first, history, second, third, last] = Layout::vertical([
        Constraint::Min(3),
        Constraint::Length(if area.height >= 20 { 2 } else { 0 }),
        Constraint::Length(rows(view.rates.cpus.len(), quarter + 2)),
        Constraint::Length(rows(view.ports.len(), quarter)),
        Constraint::Length(rows(state.events.len(), quarter)),
    ])
    .areas(area);
    devices(frame, first, &view.rates, ui);
    sparkline(frame, history, state, ui);
    cpus(frame, second, &view.rates.cpus, ui);
    if !view.ports.is_empty() {
        ports(frame, third, &view.ports, ui);
    }
    events(frame, last, state, ui);
}

/// Coalescing over the last minutes, beside what the highest mark stands for.
fn sparkline(frame: &mut Frame<'_>, area: Rect, state: &State, ui: &Ui) {
    let [label, marks] =
        Layout::horizontal([Constraint::Length(19), Constraint::Min(0)]).areas(area);
    let width = usize::from(marks.width);
    let last: Vec<u64> = state
        .history
        .iter()
        .rev()
        .take(width)
        .rev()
        .copied()
        .collect();
    let most = last.iter().copied().max().unwrap_or(0) as f64 / 100.0;
    let lines = vec![
        Line::styled("segments/packet", ui.heading()),
        Line::raw(format!("  most {most:.1}")),
    ];
    frame.render_widget(Paragraph::new(lines), label);
    frame.render_widget(Sparkline::default().data(&last), marks);
}

const DEVICE_COLUMNS: [(&str, u16); 9] = [
    ("device", 18),
    ("rx pps", 9),
    ("rx bit/s", 9),
    ("tx pps", 9),
    ("tx bit/s", 9),
    ("drop/s", 8),
    ("seg/pkt", 8),
    ("irq/s", 8),
    ("cpu", 8),
];

fn devices(frame: &mut Frame<'_>, area: Rect, rates: &Rates, ui: &Ui) {
    let mut devices: Vec<&DeviceRates> = rates.devices.iter().collect();
    if ui.sorted {
        devices.sort_by(|a, b| (b.rx_bps + b.tx_bps).total_cmp(&(a.rx_bps + a.tx_bps)));
    }
    let mut rows = Vec::new();
    for device in devices {
        rows.push(device_row(device, ui));
        let own = rates
            .queues
            .iter()
            .filter(|queue| queue.device == device.name);
        rows.extend(own.map(|queue| queue_row(queue, ui)));
    }
    table(frame, area, &DEVICE_COLUMNS, rows, ui);
}

fn device_row(device: &DeviceRates, ui: &Ui) -> Row<'static> {
    let state = if device.running { "" } else { " (down)" };
    Row::new([
        format!("{}{state}", device.name),
        short(device.rx_pps),
        short(device.rx_bps),
        short(device.tx_pps),
        short(device.tx_bps),
        short(device.drops_per_s),
        device
            .segments_per_packet
            .map_or_else(String::new, |ratio| format!("{ratio:.1}")),
    ])
    .style(ui.alarm(device.drops_per_s > 0.0))
}

fn queue_row(queue: &QueueRates, ui: &Ui) -> Row<'static> {
    let side = if queue.tx { "tx" } else { "rx" };
    let name = format!("  {side}-{} {:3.0} %", queue.queue, queue.share * 100.0);
    let (pps, bps) = (short(queue.pps), short(queue.bps));
    let empty = String::new;
    let cells = match queue.tx {
        true => [name, empty(), empty(), pps, bps],
        false => [name, pps, bps, empty(), empty()],
    };
    let rest = [
        short(queue.drops_per_s),
        empty(),
        queue.irqs_per_s.map_or_else(empty, short),
        queue.cpus.clone().unwrap_or_default(),
    ];
    Row::new(cells.into_iter().chain(rest)).style(ui.alarm(queue.drops_per_s > 0.0))
}

const CPU_COLUMNS: [(&str, u16); 8] = [
    ("processor", 18),
    ("NET_RX/s", 9),
    ("NET_TX/s", 9),
    ("packets/s", 9),
    ("softirq", 9),
    ("squeeze/s", 9),
    ("drop/s", 8),
    ("RPS/s", 8),
];

fn cpus(frame: &mut Frame<'_>, area: Rect, cpus: &[CpuRates], ui: &Ui) {
    let mut cpus: Vec<&CpuRates> = cpus.iter().collect();
    if ui.sorted {
        cpus.sort_by(|a, b| b.net_rx_per_s.total_cmp(&a.net_rx_per_s));
    }
    let row = |cpu: &CpuRates| {
        Row::new([
            format!("cpu{}", cpu.cpu),
            short(cpu.net_rx_per_s),
            short(cpu.net_tx_per_s),
            short(cpu.packets_per_s),
            format!("{:.0} %", cpu.softirq * 100.0),
            short(cpu.squeezes_per_s),
            short(cpu.drops_per_s),
            short(cpu.rps_per_s),
        ])
        .style(ui.alarm(cpu.drops_per_s > 0.0 || cpu.softirq > 0.6))
    };
    table(
        frame,
        area,
        &CPU_COLUMNS,
        cpus.into_iter().map(row).collect(),
        ui,
    );
}

const PORT_COLUMNS: [(&str, u16); 7] = [
    ("port", 18),
    ("rx pps", 9),
    ("rx bit/s", 9),
    ("tx pps", 9),
    ("tx bit/s", 9),
    ("drop/s", 8),
    ("tx super", 8),
];

fn ports(frame: &mut Frame<'_>, area: Rect, ports: &[PortRates], ui: &Ui) {
    if ports.is_empty() {
        frame.render_widget(Paragraph::new("no switch is running"), area);
        return;
    }
    let row = |port: &PortRates| {
        Row::new([
            port.name.clone(),
            short(port.rx_pps),
            short(port.rx_bps),
            short(port.tx_pps),
            short(port.tx_bps),
            short(port.drops_per_s),
            format!("{:.0} %", port.tx_super * 100.0),
        ])
        .style(ui.alarm(port.drops_per_s > 0.0))
    };
    table(
        frame,
        area,
        &PORT_COLUMNS,
        ports.iter().map(row).collect(),
        ui,
    );
}

/// The newest first, with the seconds since.
fn events(frame: &mut Frame<'_>, area: Rect, state: &State, ui: &Ui) {
    if state.events.is_empty() && ui.panel == Panel::Events {
        frame.render_widget(Paragraph::new("nothing happened yet"), area);
        return;
    }
    let now = state.view.as_ref().map_or(0, |view| view.rates.at_ms);
    let line = |(at, event): &(u64, jumbo_host::sample::Event)| {
        let ago = now.saturating_sub(*at) / 1000;
        Line::raw(format!("{ago:>5} s ago  {} {}", event.device, event.what))
    };
    let mut lines = vec![Line::styled("events", ui.heading())];
    lines.extend(state.events.iter().rev().skip(ui.scroll).map(line));
    frame.render_widget(Paragraph::new(lines), area);
}

fn table(
    frame: &mut Frame<'_>,
    area: Rect,
    columns: &[(&'static str, u16)],
    rows: Vec<Row<'static>>,
    ui: &Ui,
) {
    let skip = ui.scroll.min(rows.len().saturating_sub(1));
    let widths = columns.iter().map(|(_, width)| Constraint::Length(*width));
    let header = Row::new(columns.iter().map(|(name, _)| *name)).style(ui.heading());
    let table = Table::new(rows.into_iter().skip(skip), widths).header(header);
    frame.render_widget(table, area);
}

/// Four digits at most: `0`, `12.3k`, `4.56G`.
fn short(rate: f64) -> String {
    let (value, unit) = match rate {
        rate if rate >= 1e9 => (rate / 1e9, "G"),
        rate if rate >= 1e6 => (rate / 1e6, "M"),
        rate if rate >= 1e3 => (rate / 1e3, "k"),
        rate => (rate, ""),
    };
    match value {
        0.0 => "0".into(),
        value if value >= 100.0 || (unit.is_empty() && value >= 10.0) => {
            format!("{value:.0}{unit}")
        }
        value if value >= 10.0 => format!("{value:.1}{unit}"),
        value => format!("{value:.2}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short() {
        for (rate, text) in [
            (0.0, "0"),
            (0.5, "0.50"),
            (12.4, "12"),
            (999.0, "999"),
            (1234.0, "1.23k"),
            (25.7e9, "25.7G"),
        ] {
            assert_eq!(short(rate), text);
        }
    }
}
