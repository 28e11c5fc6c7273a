"""What the page's script does, run by Node on a stand-in for a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

#: Elements, and `served`, which answers a fetch: by default at once and to everyone. `report`
#: writes what a test looks at.
BROWSER = """
"use strict";
const fs = require("fs"), vm = require("vm");
class Element {
  constructor(id) {
    Object.assign(this, { id, children: [], heard: {}, textContent: "", value: "", hidden: false });
    const names = new Set();
    this.classList = { add: (name) => names.add(name), remove: (name) => names.delete(name) };
  }
  get childElementCount() { return this.children.length; }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  setAttribute() {}
  removeAttribute(name) { delete this[name]; }
  addEventListener(name, heard) { (this.heard[name] ??= []).push(heard); }
  fire(name, event = {}) {
    for (const heard of this.heard[name] ?? []) heard({ preventDefault() {}, ...event });
  }
}
const elements = { message: Object.assign(new Element("message"), { textContent: "Welcome" }) };
const $ = (id) => elements[id] ??= new Element(id);
const asked = [], browser = new Element("window"), kept = {};
const INDEX = { products: 3, pictures: 3, model: "m", max_k: 10, attributes: { colour: "string" } };
const ANSWER = { hits: [], timings: { total: 1 }, facets: null, matching: 3 };
const settled = () => new Promise((done) => setTimeout(done, 5));
const report = (value) => console.log(JSON.stringify(value));
let served = async (address) => address === "v1/index" ? INDEX : ANSWER;
const page = {
  document: {
    getElementById: $, querySelectorAll: () => [], body: new Element("body"),
    createElement: (tag) => new Element(tag),
  },
  sessionStorage: {
    getItem: (name) => kept[name] ?? null, setItem(name, value) { kept[name] = value; },
  },
  location: { search: "", pathname: "/" }, history: { pushState() {} }, prompt: () => "secret",
  URL: { createObjectURL: (file) => `blob:${file.name}`, revokeObjectURL() {} },
  FormData: class { append() {} }, Option: class {},
  addEventListener: (name, heard) => browser.addEventListener(name, heard),
  async fetch(address, options = {}) {
    const key = options.headers?.["X-API-Key"];
    asked.push({ address, key, body: options.body });
    const found = await served(address, options, key);
    return {
      ok: found !== null, status: found === null ? 401 : 200,
      json: async () => typeof found === "function" ? found() : found ?? { detail: "a key" },
      blob: async () => ({ name: address }),
    };
  },
  URLSearchParams, AbortController, performance,
};
async function opened() {
  const html = fs.readFileSync(process.argv[2], "utf8");
  vm.runInNewContext(/<script>(.*?)<\\/script>/s.exec(html)[1], page);
  await settled();
}
async function searched(text) {
  $("query").value = text;
  $("search").fire("submit");
  await settled();
}
async function followed(address) {
  page.location.search = address;
  browser.fire("popstate");
  await settled();
}
"""


def run(scenario: str, tmp_path: Path) -> Any:
    """What a scenario reports."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = tmp_path / "scenario.js"
    script.write_text(f"{BROWSER}(async () => {{\n{scenario}\n}})();\n", encoding="utf-8")
    with resources.as_file(resources.files("service") / "page" / "index.html") as html:
        ran = subprocess.run(
            [node, str(script), str(html)], capture_output=True, text=True, timeout=60, check=False
        )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_with_a_key_it_knows_the_filters_and_the_most_hits(tmp_path: Path) -> None:
    """What it asks for when it is opened is refused: it has no key yet."""
    scenario = """
    served = async (address, _, key) => !key ? null : address === "v1/index" ? INDEX : ANSWER;
    await opened();
    await searched("dress");
    report([asked.at(-1), $("index").textContent]);
    """
    last, shown = run(scenario, tmp_path)
    assert (last["address"], last["key"]) == ("v1/search/text", "secret")
    body = json.loads(last["body"])
    assert (body["k"], body["facets"]) == (10, ["attributes.colour"])
    assert shown == "3 products · 3 pictures · m"


def test_one_refusal_of_a_key_asks_once(tmp_path: Path) -> None:
    scenario = """
    let prompts = 0;
    page.prompt = () => { prompts += 1; return null; };
    served = async () => null;
    await opened();
    await searched("dress");
    report([prompts, $("message").textContent]);
    """
    assert run(scenario, tmp_path) == [1, "A key"]


def test_the_picture_shown_is_the_one_searched_with(tmp_path: Path) -> None:
    """With a key pictures are fetched, and an earlier one may come later."""
    scenario = """
    kept.key = "secret";
    let comes;
    served = async (address) => {
      if (address.includes("/a/image")) await new Promise((done) => { comes = done; });
      return address === "v1/index" ? INDEX : ANSWER;
    };
    await opened();
    await followed("?item=a");
    await followed("?item=b");
    comes();
    await settled();
    report($("asked-picture").src);
    """
    assert run(scenario, tmp_path) == "blob:v1/items/b/image?view=0"


def test_going_back_while_an_answer_comes_is_no_failure(tmp_path: Path) -> None:
    scenario = """
    served = async (address, { signal }) => address === "v1/index" ? INDEX : () =>
      new Promise((_, failed) => signal.addEventListener("abort", () => failed(signal.reason)));
    await opened();
    await searched("dress");
    await followed("");
    report([$("message").textContent, $("message").className]);
    """
    assert run(scenario, tmp_path) == ["Welcome", ""]


def test_a_search_before_the_index_is_known_stays(tmp_path: Path) -> None:
    scenario = """
    let comes, first = true;
    served = async (address) => {
      if (address === "v1/index" && first) {
        first = false;
        await new Promise((done) => { comes = done; });
      }
      return address === "v1/index" ? INDEX : ANSWER;
    };
    await opened();
    $("file").fire("change", { target: { files: [{ type: "image/png", name: "picture" }] } });
    await settled();
    comes();
    await settled();
    report([$("asked").hidden, $("asked-picture").src]);
    """
    assert run(scenario, tmp_path) == [False, "blob:picture"]
