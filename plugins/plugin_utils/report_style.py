# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the page about a fleet looks, and the little that it does by itself. Nothing in here is typed by users."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--text:#1b1f24;--soft:#545b64;--page:#fff;--box:#f4f6f8;--line:#c3c9d0;
--bad:#a40e26;--odd:#7a4b00;--good:#0b5a8a;--link:#0a53a8;--mark:#fff3c4}
@media (prefers-color-scheme:dark){:root{--text:#e8ebee;--soft:#b3bac2;--page:#14171a;--box:#1f2429;--line:#495159;
--bad:#ff9a9a;--odd:#f5c369;--good:#7cc4f0;--link:#8cc2ff;--mark:#3a3210}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1rem;font:1rem/1.45 system-ui,sans-serif;color:var(--text);
background:var(--page);overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.25rem;margin:2rem 0 .6rem;border-bottom:1px solid var(--line)}
a{color:var(--link)}p{margin:.3rem 0}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.skip{position:absolute;left:-99rem}.skip:focus{position:static}
.soft{color:var(--soft)}.bad{color:var(--bad)}.odd{color:var(--odd)}
.problems{list-style:none;margin:0;padding:0;display:grid;gap:.6rem}
.problems>li{background:var(--box);border:1px solid var(--line);border-left:.5rem solid var(--odd);border-radius:.3rem;
padding:.5rem .8rem;color:var(--text)}
.problems>li.bad{border-left:.5rem double var(--bad)}.problems>li.fine{border-left-color:var(--line)}
.problems p{margin:.1rem 0}.what{font-size:1.1rem}.why{font-family:ui-monospace,monospace;font-size:.9rem}
.scrolls{overflow-x:auto;border:1px solid var(--line);border-radius:.3rem}
svg text{fill:var(--text);font:600 14px system-ui,sans-serif}svg .below{font-weight:400;font-size:12px}
svg .head{fill:var(--soft);font-size:12px}
.node rect{fill:var(--box);stroke:var(--line);stroke-width:1.5}
.node.bad rect{stroke:var(--bad);stroke-width:3;stroke-dasharray:7 4}.node.bad .below{fill:var(--bad);font-weight:700}
.node.odd rect{stroke:var(--odd);stroke-width:2;stroke-dasharray:2 3}.node.odd .below{fill:var(--odd)}
.edge{fill:none;stroke:var(--line);stroke-width:1.5}.edge.bad{stroke:var(--bad);stroke-dasharray:6 5}
.edge.odd{stroke:var(--odd);stroke-dasharray:2 4}.cross{fill:none;stroke:var(--bad);stroke-width:3}
.controls{display:flex;flex-wrap:wrap;gap:.6rem;align-items:end;margin-bottom:.6rem}
.controls[hidden],[hidden]{display:none}
.controls label{display:grid;flex:1 1 12rem}
input,select,button{font:inherit;color:inherit;background:var(--page);border:1px solid var(--soft);border-radius:.3rem;
padding:.35rem .5rem;min-height:2.6rem;width:100%}
button{width:auto;background:var(--box)}
.service{border:1px solid var(--line);border-radius:.3rem;margin:.5rem 0;content-visibility:auto;
contain-intrinsic-size:auto 3rem}
summary{padding:.6rem .8rem;background:var(--box);cursor:pointer}
.inside{padding:.2rem .8rem .6rem}
table{border-collapse:collapse;width:100%}caption{text-align:left;color:var(--soft)}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line)}
td,tbody th{min-width:5rem}td.address{min-width:9.5rem}thead th{overflow-wrap:normal;white-space:nowrap}
td.n,th.n{text-align:right;white-space:nowrap;min-width:0}
td .bars{display:block;width:8rem;max-width:100%;height:1.3rem}
.bars .real{fill:var(--good)}.bars .expected{fill:none;stroke:var(--text);stroke-width:1}
.bars .ground{fill:var(--box)}
.events{margin:0;padding:0;list-style:none;display:grid;gap:.3rem}
.strip{display:block;width:100%;max-width:20rem;height:.9rem;margin:.2rem 0;border:1px solid var(--line)}
.strip .ground{fill:var(--box)}.strip .up{fill:var(--good)}.strip .drain{fill:var(--odd)}.strip .down{fill:var(--bad)}
.past summary{padding:.1rem 0;background:none;font-size:.9rem}.past ol{margin:0;padding-left:1.2rem;font-size:.9rem}
@media (max-width:58rem){body{padding:.6rem}
table,caption,tbody,tr,th,td{display:block;width:100%}thead{position:absolute;left:-99rem}
tr{border-bottom:2px solid var(--line);padding:.4rem 0}
th,td,td.n,td.address{display:grid;min-width:0;white-space:normal;
grid-template-columns:8.5rem 1fr;text-align:left;border:0;padding:.1rem 0}
td::before,tbody th::before{content:attr(data-label);color:var(--soft);font-weight:400}}
@media print{:root{color-scheme:light;--text:#000;--soft:#333;--page:#fff;--box:#fff;--line:#888;--bad:#900;--odd:#640;
--good:#069;--link:#000}body{max-width:none;padding:0}.controls,.skip{display:none!important}
details::details-content{content-visibility:visible;height:auto}.service,.problems>li,tr{break-inside:avoid}
.scrolls{overflow:visible;border:0}svg[role=img]{width:100%;height:auto}.service{content-visibility:visible}}
"""

# Without it the whole page can be read: only the search is missing then.
SCRIPT = """
(function(){
var all=[].slice.call(document.querySelectorAll('.service')),controls=document.getElementById('controls');
if(!controls||!all.length)return;
var search=document.getElementById('search'),filter=document.getElementById('filter'),
count=document.getElementById('count'),texts=all.map(function(e){return e.textContent.toLowerCase()});
function show(){
var words=search.value.toLowerCase().split(/\\s+/).filter(Boolean),kind=filter.value,shown=0;
all.forEach(function(e,i){
var ok=(!kind||(' '+e.dataset.kinds+' ').indexOf(' '+kind+' ')>=0)&&
words.every(function(w){return texts[i].indexOf(w)>=0});
e.hidden=!ok;if(ok)shown++});
count.textContent=shown+' of '+all.length+' services shown'}
function open(state){all.forEach(function(e){if(!e.hidden)e.open=state})}
search.addEventListener('input',show);filter.addEventListener('change',show);
search.addEventListener('keydown',function(e){if(e.key==='Escape'){search.value='';show()}});
document.getElementById('open').addEventListener('click',function(){open(true)});
document.getElementById('close').addEventListener('click',function(){open(false)});
function follow(){var e=document.getElementById(location.hash.slice(1));
if(e&&e.classList.contains('service')){if(e.hidden){search.value='';filter.value='';show()}e.open=true;
e.scrollIntoView();e.querySelector('summary').focus()}}
window.addEventListener('hashchange',follow);
window.addEventListener('beforeprint',function(){all.forEach(function(e){e.open=true})});
controls.hidden=false;show();follow()
})();
"""
