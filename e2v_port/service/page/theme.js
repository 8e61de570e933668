// Before the first paint, so that the page does not flash in the other colours: hence no module.
document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "";
