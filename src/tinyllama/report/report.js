// Values under the pointer: nearest point of each series of the chart below it. All text is set as text, never as HTML.
"use strict";
for (const chart of document.querySelectorAll("svg[data-chart]")) {
  const { x: xName, series } = JSON.parse(chart.dataset.chart);
  const line = chart.querySelector(".pointer");
  const box = document.createElement("div");
  box.className = "values";
  box.hidden = true;
  chart.parentElement.append(box);

  const nearest = (points, place) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < place) low = middle; else high = middle;
    }
    return Math.abs(points[low][0] - place) <= Math.abs(points[high][0] - place) ? points[low] : points[high];
  };
  const row = (name, value) => {
    const item = document.createElement("div");
    const left = document.createElement("span"), right = document.createElement("b");
    left.textContent = name;
    right.textContent = value;
    item.append(left, right);
    return item;
  };
  const show = (event) => {
    const frame = chart.getBoundingClientRect();
    const place = (event.clientX - frame.left) / frame.width * chart.viewBox.baseVal.width;
    const found = series.map((one) => ({ name: one.name, point: nearest(one.points, place) }));
    const centre = found.reduce((a, b) => Math.abs(a.point[0] - place) <= Math.abs(b.point[0] - place) ? a : b).point;
    const near = found.filter((one) => Math.abs(one.point[0] - centre[0]) <= 6);
    box.replaceChildren(row(xName, centre[2]), ...near.map((one) => row(one.name, one.point[3])));
    box.hidden = false;
    line.setAttribute("x1", centre[0]);
    line.setAttribute("x2", centre[0]);
    line.classList.add("on");
    const at = centre[0] / chart.viewBox.baseVal.width * frame.width;
    box.style.left = Math.max(0, at + box.offsetWidth + 24 > frame.width ? at - box.offsetWidth - 12 : at + 12) + "px";
  };
  const hide = () => { box.hidden = true; line.classList.remove("on"); };
  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerdown", show);
  chart.addEventListener("pointerleave", hide);
}
