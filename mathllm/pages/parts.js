// What pages are made of
function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function heat(share, text, about) {
  const cell = make("td", text, { class: "heat", title: about });
  cell.style.setProperty("--share", share);
  return cell;
}

function table(caption, columns, rows) {
  const element = make("table"), head = make("tr");
  element.append(make("caption", caption), document.createElement("thead"), document.createElement("tbody"));
  head.append(make("td"), ...columns.map((name) => make("th", name, { scope: "col" })));
  element.tHead.append(head);
  for (const [name, cells] of rows) {
    const row = make("tr");
    row.append(make("th", name, { scope: "row" }), ...cells);
    element.tBodies[0].append(row);
  }
  return element;
}
