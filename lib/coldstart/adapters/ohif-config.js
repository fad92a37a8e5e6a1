// OHIF's configuration, served in place of the one that the build carries, with what of the build can be put right
// from here: OHIF takes extensions and modes from its configuration, and its own code stays as it is.
{
  const server = new URL('..', document.currentScript.src);
  const archive = new URL('proxy/dicom/wado', server).pathname;

  // Where the MONAI Label panel looks for its server's address: without it, port 8000 is filled in.
  document.cookie = `MONAILABEL_SERVER_URL=${encodeURIComponent(server.href)}; path=/ohif`;

  // The panel writes its percentages in white on white.
  const readable = document.createElement('style');
  readable.textContent = '.monaiLabelPanel .w3-center { color: black; text-align: center; }';
  document.head.append(readable);

  // Next Sample jumps to a study: which of its series was served is kept over the jump, for this window alone, and the
  // mode's layout prefers that series.
  const servedSeries = 'coldstartServedSeries';
  const isServed = { attribute: servedSeries, weight: 10, constraint: { equals: { value: true } } };

  // A link may name the series too, which this mode's layout does not look at. Next Sample jumps to another one: the
  // address forgets it.
  const address = new URL(location.href);
  const linked = address.searchParams.get('initialSeriesInstanceUID');
  if (linked && address.pathname.endsWith('/monai-label')) {
    sessionStorage.setItem(servedSeries, linked);
    address.searchParams.delete('initialSeriesInstanceUID');
    history.replaceState(history.state, '', address);
  }

  // Of several commands of one name the one in the newest context runs: ours. The extension that owns the two is loaded
  // by the mode, so our context is made anew for each.
  // - "Export DICOM SEG" runs the first without saying where to: ours names the archive.
  // - The panel runs the second whenever it is connected, and what was painted before is then no longer exported: ours
  //   leaves a segmentation that is there as it is.
  const commands = {
    id: 'coldstart.commands',
    preRegistration({ commandsManager, extensionManager, servicesManager }) {
      const context = 'COLDSTART';
      const say = (type, message) =>
        servicesManager.services.uiNotificationService.show({ title: 'Export DICOM SEG', type, message });
      const { hangingProtocolService, uiModalService } = servicesManager.services;
      hangingProtocolService.addCustomAttribute(
        servedSeries,
        'The series that Next Sample named',
        ({ SeriesInstanceUID }) => SeriesInstanceUID === sessionStorage.getItem(servedSeries)
      );
      const windows = Object.getPrototypeOf(uiModalService); // the panel has a service of its own
      const { show } = windows;
      windows.show = function (options) {
        const { SeriesInstanceUID } = options.contentProps?.info ?? {};
        if (SeriesInstanceUID) sessionStorage.setItem(servedSeries, SeriesInstanceUID);
        return show.call(this, options);
      };
      this.onModeEnter = () => {
        const { activeDisplaySet } = hangingProtocolService.getProtocolById('mpr').displaySetSelectors;
        if (!activeDisplaySet.seriesMatchingRules.includes(isServed))
          activeDisplaySet.seriesMatchingRules.push(isServed);
        delete commandsManager.contexts[context];
        commandsManager.createContext(context);
        commandsManager.registerCommand(context, 'storeSegmentation', {
          commandFn: async ({ segmentationId }) => {
            const [dataSource] = extensionManager.getActiveDataSource();
            try {
              const options = { segmentationId, dataSource };
              const stored = await commandsManager.runCommand('storeSegmentation', options, 'SEGMENTATION');
              if (stored) say('success', 'The label is in the archive.');
            } catch (error) {
              say('error', `The label was not stored: ${error.message}`);
            }
          },
        });
        commandsManager.registerCommand(context, 'loadSegmentationsForViewport', {
          commandFn: options => {
            const { segmentationId } = options.segmentations[0];
            const found = servicesManager.services.segmentationService.getSegmentation(segmentationId);
            if (found) return segmentationId;
            return commandsManager.runCommand('loadSegmentationsForViewport', options, 'SEGMENTATION');
          },
        });
      };
    },
  };

  // The MONAI Label mode segments, but has neither brush nor export: it gets both from the Segmentation mode, on the
  // left, since its own panel forgets its server while another one is in its place.
  const monaiLabel = {
    id: '@ohif/mode-monai-label',
    modeFactory: async options => {
      const [stock, segmentation] = await Promise.all(
        (await options.loadModules(['@ohif/mode-monai-label', '@ohif/mode-segmentation'])).map(mode =>
          mode.modeFactory(options)
        )
      );
      const [route] = stock.routes;
      const layoutTemplate = context => {
        const layout = route.layoutTemplate(context);
        layout.props.leftPanels.push('@ohif/extension-cornerstone.panelModule.panelSegmentationWithTools');
        return layout;
      };
      return { ...stock, onModeEnter: segmentation.onModeEnter, routes: [{ ...route, layoutTemplate }] };
    },
  };

  window.config = {
    routerBasename: '/ohif/',
    showStudyList: true,
    extensions: [commands],
    modes: [monaiLabel],
    showWarningMessageForCrossOrigin: true,
    showCPUFallbackMessage: true,
    showLoadingIndicator: true,
    strictZSpacingForVolumeViewport: true,
    useSharedArrayBuffer: 'FALSE',
    defaultDataSourceName: 'dicomweb',
    dataSources: [
      {
        namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
        sourceName: 'dicomweb',
        configuration: {
          friendlyName: 'The DICOM archive of this MONAI Label server',
          name: 'archive',
          qidoRoot: new URL('proxy/dicom/qido', server).pathname,
          wadoRoot: archive,
          wadoUriRoot: archive,
          qidoSupportsIncludeField: true,
          imageRendering: 'wadors',
          thumbnailRendering: 'wadors',
          enableStudyLazyLoad: false,
          supportsFuzzyMatching: false,
          supportsWildcard: true,
          dicomUploadEnabled: true,
          bulkDataURI: {
            enabled: true,
            // The archive names its own address, which a browser need not reach.
            transform: uri => uri.replace(/^https?:\/\/.*?(?=\/studies\/)/, archive),
            startsWith: archive,
            prefixWith: archive,
          },
        },
      },
    ],
  };
}
