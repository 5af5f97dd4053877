"""How the page of a report looks: for a wide and a narrow screen, in light and dark, and on paper."""

STYLE = """\
:root {
  --paper: #f6f7f9; --card: #ffffff; --ink: #1f2530; --soft: #667080; --line: #dfe3e8; --accent: #14857c;
  --bad: #c9302c; --other: #9aa3ae; --f0: #14857c; --f1: #3f6fd1; --f2: #d98a0b; --f3: #8b5cc9; --f4: #cc5a97;
  --f5: #7b951f; --f6: #2a9fc4; --f7: #96674a;
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171c; --card: #1c2027; --ink: #e3e7ed; --soft: #98a2b0; --line: #343b46; --accent: #37b8ac;
  --bad: #f2695f; --other: #737d8a; --f0: #37b8ac; --f1: #7ba2f2; --f2: #eaae4b; --f3: #b592ea; --f4: #e78bbd;
  --f5: #aac454; --f6: #66c5e2; --f7: #c6997b;
} }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1020px; margin: 0 auto; padding: 28px 20px 40px; }
header { margin-bottom: 20px; }
header p { margin: 0; color: var(--soft); }
header .kind { text-transform: uppercase; letter-spacing: .08em; font-size: 12px; color: var(--accent);
  font-weight: 600; }
h1 { margin: 2px 0; font-size: 26px; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 0 0 10px; font-size: 16px; }
h2 small { color: var(--soft); font-weight: 400; margin-left: 6px; font-size: 13px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px;
  margin: 0 0 16px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 1px; padding: 0;
  overflow: hidden;
  background: var(--line); }
.tile { background: var(--card); padding: 12px 16px; display: flex; flex-direction: column; }
.tile span, .tile small, .note, .facts, footer { color: var(--soft); }
.tile span, .tile small { font-size: 13px; line-height: 1.35; }
.tile strong { font-size: 23px; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile.bad strong, b.bad { color: var(--bad); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: system-ui, sans-serif !important; }
.narrow { display: none; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 0 0 8px; font-size: 13px; }
.legend span { display: inline-flex; align-items: center; min-width: 0; overflow-wrap: anywhere; }
i { flex: none; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; display: inline-block;
  background: var(--other); }
i.accent { background: var(--accent); } i.bad { background: var(--bad); }
i.f0 { background: var(--f0); } i.f1 { background: var(--f1); } i.f2 { background: var(--f2); }
i.f3 { background: var(--f3); } i.f4 { background: var(--f4); } i.f5 { background: var(--f5); }
i.f6 { background: var(--f6); } i.f7 { background: var(--f7); }
.note { margin: 8px 0 0; font-size: 13px; }
.histograms { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 14px 22px; }
figure { margin: 0; min-width: 0; }
figcaption { display: flex; align-items: center; font-size: 13px; margin-bottom: 2px; }
code, pre { font-family: ui-monospace, monospace; font-size: 13px; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { font-size: 13px; font-weight: 400; color: var(--soft); text-align: right; vertical-align: bottom; }
th, td { padding: 5px 0 5px 18px; border-bottom: 1px solid var(--line); text-align: right; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 110px;
  overflow-wrap: anywhere; }
tbody tr:last-child td { border-bottom: 0; }
.calls { list-style: none; margin: 0; padding: 0; }
.calls li { border-top: 1px solid var(--line); padding: 9px 0; }
.calls li:first-child { border-top: 0; padding-top: 0; }
.calls li:last-child { padding-bottom: 0; }
.calls p { margin: 0; }
.facts { font-size: 13px; font-variant-numeric: tabular-nums; }
.facts b { color: var(--ink); }
pre { margin: 5px 0 0; white-space: pre-wrap; border-left: 3px solid var(--bad); padding-left: 9px; }
footer { font-size: 13px; padding: 4px 2px; }
footer p { margin: 0 0 6px; }
@media (max-width: 640px) {
  main { padding: 16px 10px 28px; }
  section { padding: 13px 12px; }
  .tiles { padding: 0; grid-template-columns: 1fr 1fr; }
  h1 { font-size: 21px; }
  .wide { display: none; }
  .narrow { display: block; }
  td { font-size: 14px; }
  th, td { padding-left: 11px; }
  th:first-child, td:first-child { min-width: 84px; }
}
@media print { body { background: none; } section { break-inside: avoid; } }
"""
